"""Images, folders and packs: odd, cut, fuzzed, and what is no image."""

import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from corpus.case import Case
from workbench.images import open_images


def picture(rng: np.random.Generator) -> Image.Image:
    """Smooth, so that what a lossy format changes is little."""
    y, x = np.mgrid[0:40, 0:56]
    phases = rng.random((3, 3))
    waves = [np.sin(x / 14 + 6 * a) + np.cos(y / 11 + 6 * b) + c for a, b, c in phases]
    values = np.stack(waves, -1)
    values = 255 * (values - values.min()) / np.ptp(values)
    return Image.fromarray(values.astype(np.uint8))


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def cases(folder: Path, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    image = picture(rng)
    pixels = np.asarray(image).astype(int)

    def place(name: str) -> Path:
        found = folder / name.replace("/", "-").replace(" ", "-")
        found.mkdir(parents=True, exist_ok=True)
        return found

    def alike(path: Path, exact: np.ndarray = pixels) -> bool:
        images = open_images(path)
        shown = np.asarray(images.load(0)).astype(int)
        assert len(images.fingerprint) == 64
        return shown.shape == exact.shape and abs(shown - exact).mean() < 12

    def one(name: str, data: bytes, good: bool | None, suffix: str, run: Callable = alike) -> Case:
        path = place(name) / f"a{suffix}"
        return Case(f"images/{name}", lambda: path.write_bytes(data), lambda: run(path), good)

    formats = {
        ".png": "PNG", ".jpg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
        ".bmp": "BMP", ".tif": "TIFF", ".ppm": "PPM", ".gif": "GIF", ".avif": "AVIF",
    }  # fmt: skip
    files = {suffix: encoded(image, form) for suffix, form in formats.items()}
    for suffix, data in files.items():
        yield one(f"format {suffix}", data, None if suffix == ".gif" else True, suffix)
        for number in range(3):
            cut = data[: int(rng.integers(4, len(data) - 4))]
            yield one(f"cut {suffix} {number}", cut, None, suffix, lambda p: bool(_read(p)))
        for number in range(2):
            fuzzed = bytearray(data)
            for _ in range(8):
                fuzzed[int(rng.integers(len(data)))] = int(rng.integers(256))
            yield one(f"fuzzed {suffix} {number}", bytes(fuzzed), None, suffix, _read)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (2 * 2**20), zip=True)
    yield one("long comment", encoded(image, "PNG", pnginfo=text), True, ".png")
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    shown = np.repeat(grey[..., None], 3, -1).astype(int)
    for bits in (10, 12, 16):
        deep = Image.fromarray((grey * ((2**bits - 1) / 255)).astype(np.uint16))
        for form, suffix in (("PNG", ".png"), ("TIFF", ".tif")):
            data = encoded(deep, form)
            yield one(f"{bits} bits {suffix}", data, True, suffix, lambda p: alike(p, shown))
    header = b"\x89PNG\r\n\x1a\n"
    body = (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    bomb = header + (13).to_bytes(4, "big") + b"IHDR" + body
    bomb += zlib.crc32(b"IHDR" + body).to_bytes(4, "big")
    yield one("bomb", bomb, False, ".png")
    for name, data in {"empty": b"", "text": b"hello", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}.items():
        yield one(name, data, False, ".png")

    def pipe(name: str) -> Case:
        path = place(f"pipe {name}") / name
        return Case(f"images/pipe {name}", lambda: os.mkfifo(path), lambda: alike(path), False)

    yield pipe("a.png")
    yield pipe("a.npz")
    for device in ("/dev/zero", "/dev/stdin", "/dev/random"):
        link = place(f"device {device}") / "a.png"
        yield Case(
            f"images/link to {device}",
            lambda link=link, device=device: link.symlink_to(device),
            lambda link=link: alike(link),
            False,
        )

    def classes(name: str, strays: list[str], count: int) -> Case:
        root = place(name)

        def make() -> None:
            for kind in ("cat", "dog"):
                (root / kind).mkdir()
                for i in range(2):
                    (root / kind / f"{i}.png").write_bytes(files[".png"])
            for stray in strays:
                (root / stray).write_bytes(files[".png"])

        def run() -> bool:
            images = open_images(root)
            return (
                images.classes == ["cat", "dog"]
                and images.labels == [0, 0, 1, 1]
                and len(images.left_out) == count
            )

        return Case(f"images/{name}", make, run, True)

    yield classes("class folders", [], 0)
    yield classes("class folders and a stray", ["preview.png"], 1)
    yield classes("class folders and others", ["preview.png", "a.heic", "notes.txt"], 3)

    def table(name: str, text: str, good: bool | None) -> Case:
        root = place(name)

        def make() -> None:
            (root / "a.png").write_bytes(files[".png"])
            (root / "labels.csv").write_text(text)

        return Case(f"images/{name}", make, lambda: alike(root), good)

    yield table("table", "file,imagenet_index\na.png,3\n", True)
    yield table("table long", "file,imagenet_index\na.png," + "3" * 200_000 + "\n", False)

    def pack(name: str, good: bool | None, compressed: bool = False, **arrays) -> Case:
        path = place(name) / "pack.npz"
        save = np.savez_compressed if compressed else np.savez
        return Case(f"images/{name}", lambda: save(path, **arrays), lambda: alike(path), good)

    jpeg = np.frombuffer(files[".jpg"], np.uint8)
    ends = np.array([0, len(jpeg)])
    yield pack("pack", True, jpeg=jpeg, offsets=ends)
    alien = np.zeros(2**29, np.uint8)
    yield pack("pack beside a giant", True, True, jpeg=jpeg, offsets=ends, alien=alien)
    yield pack("pack bomb", False, True, jpeg=alien, offsets=ends)
    yield pack("pack without offsets", False, jpeg=jpeg)
    yield pack("pack falling", False, jpeg=jpeg, offsets=ends[::-1])
    yield pack("pack too long", False, jpeg=jpeg, offsets=ends * 9)
    yield pack("pack of floats", False, jpeg=jpeg.astype(float), offsets=ends)


def _read(path: Path) -> bool:
    """Whether it is an image at all; pixels of damaged data may be anything."""
    return open_images(path).load(0).mode == "RGB"
