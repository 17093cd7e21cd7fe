"""Whether worker processes can be started from where a script calls for them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from paramap_d2.errors import UserError


def check_main_guard(what: str) -> None:
    """Worker processes import the main script again, and one that starts them at its top level would start them anew
    in each. What a notebook or an interactive session runs is not imported again.

    Raises:
        UserError: the calling script's line stands at its top level without ``if __name__ == "__main__":``, or the
            script is no file.
    """
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script is not None and not Path(script).exists():
        raise UserError(f"{what} starts processes that import the main script again, and {script} is no file")
    frame = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)):
        frame = frame.f_back
    if frame is None or script is None or frame.f_code.co_filename != script:
        return
    try:
        statements = ast.parse(Path(script).read_bytes()).body
    except (OSError, SyntaxError):  # gone, or changed meanwhile
        return
    for statement in statements:
        if statement.lineno <= frame.f_lineno <= (statement.end_lineno or statement.lineno):
            names = (
                {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
                if isinstance(statement, ast.If)
                else set()
            )
            if "__name__" not in names:
                raise UserError(
                    f"{script}, line {frame.f_lineno}: {what} starts processes that import this script again; "
                    'call it below a line  if __name__ == "__main__":'
                )
