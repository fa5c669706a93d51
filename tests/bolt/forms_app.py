"""The API that tests of forms and files are served from; copied into a project."""

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec

from tollway.bolt import BoltAPI, Depends, File, Form, Query, UploadFile
from tollway.bolt.params import Cookie, Header

api = BoltAPI()


@api.post("/plain")
async def plain(
    name: Annotated[str, Form(min_length=2)],
    size: Annotated[int, Form(ge=0)] = 5,
    tags: Annotated[list[str], Form()] = [],  # noqa: B006
    colour: Annotated[str | None, Form(alias="favourite-colour")] = None,
):
    return {"name": name, "size": size, "tags": tags, "colour": colour}


@api.post("/copied")
async def copied(tags: Annotated[list[str], Form()] = []):  # noqa: B006
    tags.append("changed")
    return tags


class Signup(msgspec.Struct):
    email: Annotated[str, msgspec.Meta(pattern="@")]
    age: int
    roles: list[str] = msgspec.field(default_factory=lambda: ["reader"])
    photo: UploadFile | None = None

    def __post_init__(self) -> None:
        if self.age < 18:
            raise ValueError("only for adults")


@api.post("/signup")
def signup(form: Annotated[Signup, Form()]):
    return {
        "email": form.email,
        "age": form.age,
        "roles": form.roles,
        "photo": form.photo and form.photo.filename,
    }


def shown(file: UploadFile) -> dict[str, object]:
    return {"filename": file.filename, "type": file.content_type, "size": file.size}


@api.post("/files")
async def files(
    image: Annotated[UploadFile, File(max_size=100, allowed_types=["image/*"])],
    rest: Annotated[list[UploadFile], File(max_files=2)] = [],  # noqa: B006
    raw: Annotated[bytes | None, File()] = None,
    title: Annotated[str, Form()] = "",
):
    return {
        "image": shown(image),
        "rest": [shown(file) for file in rest],
        "raw": raw and raw.decode(),
        "title": title,
    }


@api.post("/inferred")
async def inferred(one: UploadFile, many: list[UploadFile]):
    return [one.filename, *[file.filename for file in many]]


@api.post("/used")
async def used(file: UploadFile):
    first = file.read(4)
    position = file.tell()
    rest = await file.aread()
    file.seek(-3, 2)
    end = file.read()
    with tempfile.TemporaryDirectory() as name:
        file.save(Path(name) / "one")
        await file.asave(str(Path(name) / "two"))
        saved = [(Path(name) / file).read_bytes() == first + rest for file in ("one", "two")]
    headers = file.headers
    digest = hashlib.sha256(first + rest).hexdigest()
    with file:
        pass
    try:
        file.read()
    except ValueError as error:
        closed = str(error)
    return {
        "first": first.decode("latin-1"),
        "position": position,
        "end": end.decode("latin-1"),
        "saved": saved,
        "headers": headers,
        "digest": digest,
        "closed": closed,
    }


@api.post("/large", max_body=3_000_000)
def large(file: UploadFile):
    return {"size": file.size}


@api.post("/small", max_body=10)
async def small(name: Annotated[str, Form()]):
    return {"name": name}


def owner(account: Annotated[int, Form()]) -> int:
    return account


@api.post("/all/{number}")
async def every(
    number: int,
    page: Annotated[int, Query()],
    x_count: Annotated[int, Header()],
    session: Annotated[int, Cookie()],
    title: Annotated[str, Form()],
    file: Annotated[UploadFile, File(max_size=3)],
    owner: Annotated[int, Depends(owner)],
):
    return {}
