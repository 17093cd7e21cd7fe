import subprocess
import sys

import pytest

CALL = """
from paramap_d2.search.main_guard import check_main_guard

def search():
    check_main_guard("run_search")
    print("may start")

"""
GUARDED = 'if __name__ == "__main__":\n    search()\n'


def run(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(CALL + text)
    return script, subprocess.run([sys.executable, str(script)], capture_output=True, text=True)


@pytest.mark.parametrize("text", [GUARDED, "if '__main__' == __name__:\n    print()\n    search()\n"])
def test_a_script_with_its_guard_may_start_workers(tmp_path, text):
    _, done = run(tmp_path, text)
    assert done.stdout.split("\n")[-2] == "may start", done.stderr


@pytest.mark.parametrize("text", ["search()\n", "if True:\n    search()\n", "def main():\n    search()\n\nmain()\n"])
def test_a_script_without_one_is_told_which_line_needs_it(tmp_path, text):
    script, done = run(tmp_path, text)
    line = (CALL + text).rstrip().count("\n") + 1
    message = f"UserError: {script}, line {line}: run_search starts processes that import this script again; call it "
    assert message in done.stderr and "may start" not in done.stdout


def test_what_is_no_script_is_not_imported_again():
    done = subprocess.run([sys.executable, "-c", CALL + "search()"], capture_output=True, text=True)
    assert "may start" in done.stdout, done.stderr


def test_a_script_that_is_no_file_cannot_be_imported_again():
    done = subprocess.run([sys.executable, "-"], input=CALL + "search()", capture_output=True, text=True)
    assert "UserError: run_search starts processes that import the main script again, and <stdin> is no" in done.stderr
