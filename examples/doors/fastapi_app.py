"""The FastAPI door: a dependency on a route."""

from fastapi import Depends, FastAPI

from tollway.fastapi import limit

app = FastAPI(title="Doors")


@app.get("/ping", dependencies=[Depends(limit("5/10s"))])
async def ping() -> dict[str, str]:
    """Five times in ten seconds for each client."""
    return {"door": "fastapi"}
