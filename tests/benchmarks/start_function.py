"""One cold start, in an interpreter that has loaded nothing else: imports `app` as Lambda does.

    python start_function.py FOLDERS [EVENT]

FOLDERS are what stands on the path of a function, in its order; none of them, and nothing is
imported. Prints the processor time of the import, and of the first event where one is given.
"""

import sys
import time


class Context:
    """The part of Lambda's context that is read."""

    function_name = "function"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:function"
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def main(folders: str, event: str | None = None) -> None:
    if not folders:
        return
    sys.path[:0] = folders.split(":")
    began = time.process_time()
    import app  # type: ignore[import-not-found]  # The function's, from its build.

    imported = time.process_time()
    import json

    measured = {"import_seconds": imported - began}
    if event is not None:
        document = json.loads(event)
        began = time.process_time()
        answer = app.handler(document, Context())
        measured["event_seconds"] = time.process_time() - began
        if answer != {"batchItemFailures": []}:
            raise SystemExit(f"the first event was not done: {answer}")
    # What the function logged stands in the lines before.
    sys.stdout.write(f"\n{json.dumps(measured)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
