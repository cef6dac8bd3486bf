"""A minimal service of the same framework: one endpoint that returns a small dict.

python -m benchmarks.bare PORT
"""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def read_constant() -> dict[str, object]:
    """Return the same answer to every request."""
    return {"status": "ok", "answer": 42}


def main() -> None:
    """Serve on the port of the command line."""
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
