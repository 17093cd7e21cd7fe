import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramap_d2.cli.parser import CommandParser, at_least, positive
from paramap_d2.errors import UserError


@pytest.fixture
def parser():
    parser = CommandParser("bake", "Bake bread.", "  paramap bake --loaves 2\n")
    parser.add_argument("--loaves", type=at_least(1), required=True)
    parser.add_argument("--hours", type=positive, default=1.0)
    parser.add_argument("--hot", action="store_true")
    parser.add_config_options("of the oven")
    return parser


def test_options_of_a_config_come_last(parser):
    options = parser.parse_args(["--hot", "--loaves", "2", "OVEN.KIND", "--", "-3", "a=--b"])
    assert options.loaves == 2 and options.hot and options.opts[0] == "OVEN.KIND" and "-3" in options.opts


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: --loaves"),
        (["--loaves", "0"], "--loaves: must be at least 1, not 0"),
        (["--loaves", "1.5"], "--loaves: must be a whole number, not '1.5'"),
        (["--loaves"], "--loaves: expected one argument"),
        (["--loaves", "1", "--hours", "nan"], "--hours: must be a positive number, not nan"),
        (["--loaves", "1", "--hours", "soon"], "--hours: must be a positive number, not soon"),
        (["--loaves", "1", "--hto"], "unrecognized arguments: --hto; did you mean --hot?"),
        (["--loaves", "1", "--loa", "2"], "unrecognized arguments: --loa"),  # abbreviations would change meaning
        (["--loaves", "1", "KEY", "VALUE", "--hot"], "--hot: options come before the first KEY VALUE, which KEY was"),
        (["white", "--loaves", "1"], "--loaves: options come before the first KEY VALUE, which a word before it was"),
        (["white", "--loaves=1"], "--loaves: options come before the first KEY VALUE, which a word before it was"),
        (["--loaves", "1", "KEY", "VALUE", "--hours=2"], "--hours: options come before the first KEY VALUE"),
    ],
)
def test_errors_name_the_option_as_it_is_typed(parser, arguments, message):
    with pytest.raises(UserError) as error:
        parser.parse_args(arguments)
    assert str(error.value).startswith(message) and str(error.value).endswith(" (see paramap bake --help)")


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_at_least(least, value):
    import argparse

    if value >= least:
        assert at_least(least)(str(value)) == value
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=f"{least}, not {value}"):
            at_least(least)(str(value))
