"""The least a service of the same framework does: one endpoint that returns a small dict.

python -m benchmarks.bare PORT
"""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def nothing() -> dict[str, object]:
    return {"status": "ok", "answer": 42}


def main() -> None:
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
