import pytest

from paramap_d2.search.report import drawing


def _contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette, panel", [(drawing.LIGHT, "#f5f6f8"), (drawing.DARK, "#1e2228")])
def test_marks_and_text_stand_out_from_the_page(palette, panel):
    """3:1 for marks, 4.5:1 for text, on the panels too (WCAG 2.2, 1.4.11 and 1.4.3)."""
    for colour in (palette.best, palette.failure, palette.curve, *palette.ramp):
        assert _contrast(colour, palette.page) >= 3
    for colour in (palette.ink, palette.muted):
        assert min(_contrast(colour, palette.page), _contrast(colour, panel)) >= 4.5
