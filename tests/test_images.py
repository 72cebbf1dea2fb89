import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch import nn

from workbench.images import (
    MEGAPIXELS,
    SUFFIXES,
    BadImage,
    Batch,
    Preprocessing,
    open_images,
    preprocessing_for,
)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def coloured(colour: object = (200, 30, 60), size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, colour)  # type: ignore[arg-type]


def noise(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def loaded(data: bytes, name: str = "x") -> np.ndarray:
    return np.asarray(open_images([(name, data)]).load(0))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises that many pixels and holds none."""

    def block(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", b"") + block(b"IEND", b"")


def make_pack(path: Path, **changes: object) -> Path:
    files = [encoded(coloured((40 * i, 0, 0)), "WEBP", lossless=True) for i in range(5)]
    arrays: dict = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0] + [len(file) for file in files]),
        "label": np.array([1, 0, 1, 1, 0], np.uint8),
        "name": np.array(["tench", "church"]),
        "wnid": np.array(["n01440764", "n03028079"]),
        "imagenet_index": np.array([0, 497]),
        "filename": np.array([f"{i}.JPEG" for i in range(5)]).astype("S"),
    }
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


# sources


def test_the_samples_open_with_imagenet_indices_where_known() -> None:
    images = open_images("samples")
    assert len(images) == 20 and images.describe() == "built-in samples: 20 images"
    known = dict(zip(images.names, images.imagenet_index or [], strict=True))
    assert known["chelsea.jpg"] == 282 and known["astronaut.jpg"] == -1
    assert {images.load(i).mode for i in range(10)} == {"RGB"}


def test_a_folder_is_read_in_order_of_names_whatever_the_case_of_the_suffix(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", "c.Jpeg"):
        (tmp_path / name).write_bytes(encoded(coloured()))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "labels.csv").write_text("file,other\na.png,3\n")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    images = open_images(str(tmp_path))
    assert images.names == ["a.png", "b.PNG", "c.Jpeg"]
    assert images.labels is None and images.imagenet_index is None
    assert open_images(tmp_path, limit=2).names == ["a.png", "b.PNG"]


def test_labels_csv_gives_imagenet_indices(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(coloured()))
    (tmp_path / "labels.csv").write_text("\ufefffile,imagenet_index\nb.png,17\ngone.png,4\n")
    images = open_images(tmp_path)
    assert images.names == ["b.png", "a.png"] and images.imagenet_index == [17, -1]
    assert images.targets(1000) == [17, -1] and images.targets(10) is None


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for folder, count in (("n03028079", 3), ("n01440764", 4)):
        (tmp_path / folder / "deeper").mkdir(parents=True)
        for i in range(count):
            place = tmp_path / folder / ("deeper" if i == 0 else "") / f"{i}.png"
            place.write_bytes(encoded(noise(seed=i)))
    return tmp_path


def test_class_folders_give_labels_in_sorted_order(class_folders: Path) -> None:
    images = open_images(class_folders)
    assert images.classes == ["n01440764", "n03028079"]
    assert images.labels == [0, 0, 0, 0, 1, 1, 1]
    assert images.imagenet_index == [0, 0, 0, 0, 497, 497, 497]
    assert "n01440764/deeper/0.png" in images.names
    assert images.targets(2) == images.labels and images.targets(1000) == images.imagenet_index


def test_classes_of_a_folder_are_those_of_a_model_by_name(class_folders: Path) -> None:
    """And not by their place."""
    names = ["tench", "gas pump", "Church"]
    images = open_images(class_folders)
    assert images.targets(3, names) == [0, 0, 0, 0, 2, 2, 2]
    assert images.targets(3, ["gas pump", "church", "a"]) == [-1, -1, -1, -1, 1, 1, 1]
    assert images.targets(2, ["left", "right"]) == images.labels  # nothing in common: by place
    assert images.targets(1000, "imagenet-1k") == images.imagenet_index


def test_a_limit_on_class_folders_keeps_every_class(class_folders: Path) -> None:
    images = open_images(class_folders, limit=3)
    assert images.labels == [0, 0, 1]
    assert np.array_equal(images.load(2), open_images(class_folders).load(4))


def test_files_and_lists_of_files_and_uploads(tmp_path: Path) -> None:
    data = encoded(coloured((1, 2, 3)))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(data)
    one = tmp_path / "a" / "x.png"
    assert open_images(one).names == ["x.png"]
    assert open_images([one, str(tmp_path / "b" / "x.png")]).names == ["x.png", "x.png (2)"]
    assert open_images([("up.png", data), data]).names == ["up.png", "upload 2"]
    for source in (one, data, [("up.png", data)]):
        assert np.asarray(open_images(source).load(0))[0, 0].tolist() == [1, 2, 3]


def test_a_pack_gives_images_labels_classes_and_names(tmp_path: Path) -> None:
    images = open_images(make_pack(tmp_path / "p.npz"))
    assert images.describe() == "p.npz: 5 images of 2 classes"
    assert [np.asarray(images.load(i))[0, 0, 0] for i in range(5)] == [0, 40, 80, 120, 160]
    assert images.labels == [1, 0, 1, 1, 0] and images.classes == ["tench", "church"]
    assert images.imagenet_index == [497, 0, 497, 497, 0]
    assert images.names[3] == "3.JPEG"
    first = open_images(tmp_path / "p.npz", limit=2)
    assert first.names == images.names[:2] and first.labels == [1, 0]


def test_a_pack_needs_only_bytes_and_offsets(tmp_path: Path) -> None:
    bare = dict.fromkeys(("label", "name", "wnid", "imagenet_index", "filename"))
    images = open_images(make_pack(tmp_path / "p.npz", **bare))
    assert images.names[4] == "00004" and images.labels is None and images.classes is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": None}, "it has no array offsets"),
        ({"offsets": np.array([0, 9, 5])}, "offsets do not rise"),
        ({"offsets": np.array([0, 10**9])}, "offsets reach from 0 to 1000000000, but jpeg has"),
        ({"offsets": np.array([-4, 10])}, "offsets reach from -4"),
        ({"offsets": np.array([0.0, 4.0])}, "offsets is float64"),
        ({"jpeg": np.zeros((3, 3), np.uint8)}, r"jpeg is uint8 \(3, 3\)"),
        ({"label": np.array([0, 1, 2, 0, 0])}, "whole numbers from 0 to 1"),
        ({"label": np.array([0, 1])}, "label needs 5"),
        ({"imagenet_index": np.array([3])}, "imagenet_index has 1 entries for 2 classes"),
        ({"filename": np.array(["a"])}, "filename has 1 entries for 5 images"),
        ({"name": np.array([{}, {}], dtype=object)}, "not a readable image pack"),
    ],
)
def test_a_damaged_pack_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_images(make_pack(tmp_path / "p.npz", **changes))
    assert "p.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_pack_is_refused(tmp_path: Path) -> None:
    path = make_pack(tmp_path / "p.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a readable image pack"):
        open_images(path)


def test_nothing_to_read_says_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    for source, message in (
        (tmp_path, "holds no image"),
        (tmp_path / "gone", "There is nothing at"),
        ([], "list of images is empty"),
        ([tmp_path / "gone.png"], "There is nothing at"),
        ("", "path of the images is empty"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            open_images(source)
        assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    for source, message in (
        (17, "int is no picture"),
        ([3], "int is no picture"),
        ([("a.png", "text")], "a.png comes with str"),
        ("a" * 5000, "cannot be opened"),
    ):
        with pytest.raises(ValueError, match=message):
            open_images(source)
    with pytest.raises(ValueError, match="limit is 0"):
        open_images("samples", limit=0)


# decoding


def test_exif_orientation_is_applied() -> None:
    upright = noise((30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be turned clockwise by 90 degrees
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    np.testing.assert_array_equal(loaded(encoded(turned, exif=exif)), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(coloured(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    images = open_images([("x.jpg", data)])
    assert images.load(0).size == (8, 6)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1", "YCbCr"])
def test_every_mode_becomes_the_same_rgb(mode: str) -> None:
    white = coloured((255, 255, 255)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    np.testing.assert_array_equal(loaded(encoded(white, kind)), np.full((6, 8, 3), 255))


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    found = loaded(encoded(coloured((200, 30, 60)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(found.astype(int) - [200, 30, 60]).max() <= 6


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = loaded(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(found[0], [[v] * 3 for v in (0, 1, 128, 255)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[-100, 0, 300]], np.int32), [0, 64, 255]),
        (np.array([[-5, -5, -5]], np.int32), [0, 0, 0]),
        (np.array([[0, 10**8, 2 * 10**9]], np.int32), [0, 13, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
    ],
)
def test_thirty_two_bit_grey_is_scaled_from_its_range(values: np.ndarray, expected: list) -> None:
    images = open_images([("x.tif", encoded(Image.fromarray(values), "TIFF"))])
    assert np.asarray(images.load(0))[0, :, 0].tolist() == expected
    assert len(images.notes) == 1 and "32-bit" in images.notes[0]


def test_grey_values_that_are_not_numbers_are_refused() -> None:
    values = np.array([[0, np.nan]], np.float32)
    with pytest.raises(BadImage, match="not finite"):
        loaded(encoded(Image.fromarray(values), "TIFF"))


def test_transparent_parts_are_white_and_noted() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    images = open_images([("x.png", encoded(image))])
    assert np.asarray(images.load(0))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert images.notes == ["x.png: its transparent parts are shown on white."]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_noted_once(kind: str) -> None:
    frames = [coloured((255, 0, 0)), coloured((0, 0, 255)), coloured((0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    images = open_images([("x.gif", data)])
    for _ in range(2):
        assert np.asarray(images.load(0))[0, 0].tolist() == [255, 0, 0]
    assert images.notes == ["x.gif: only the first frame is used."]


def broken_jpeg() -> bytes:
    data = encoded(noise((200, 200)), "JPEG")
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (broken_jpeg, "is truncated"),
        (lambda: encoded(noise())[:300], "is truncated"),
        (lambda: b"", "is empty"),
        (lambda: b"a text file that calls itself jpg", "is not an image that can be read"),
        (lambda: b"\x89PNG\r\n\x1a\n", "cannot be decoded|is not an image|is truncated"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    ],
)
def test_a_bad_image_has_name_and_reason(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    (tmp_path / "bad.jpg").write_bytes(make())
    (tmp_path / "good.png").write_bytes(encoded(coloured()))
    images = open_images(tmp_path)
    assert images.names == ["bad.jpg", "good.png"]
    with pytest.raises(BadImage, match=reason) as caught:
        images.load(0)
    assert caught.value.name == "bad.jpg" and str(caught.value).startswith("bad.jpg ")
    assert images.load(1).size == (8, 6)


def test_a_file_that_went_away_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(coloured()))
    images = open_images(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadImage, match=r"a\.png is no longer there"):
        images.load(0)


@pytest.mark.parametrize(("side", "megapixels"), [(9_000, 81), (11_000, 121), (40_000, 1600)])
def test_an_image_of_too_many_pixels_is_refused_before_decoding(
    side: int, megapixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: Image.Image) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    message = f"has {megapixels} megapixels, more than the limit of {MEGAPIXELS}"
    with pytest.raises(BadImage, match=message):
        loaded(png_header(side, side))


def test_the_fingerprint_depends_on_names_bytes_count_and_order(tmp_path: Path) -> None:
    a, b = encoded(coloured((1, 1, 1))), encoded(coloured((2, 2, 2)))
    variants = [
        [("a", a), ("b", b)],
        [("b", b), ("a", a)],
        [("a", b), ("b", a)],
        [("a", a), ("c", b)],
        [("a", a)],
    ]
    prints = [open_images(variant).fingerprint for variant in variants]
    assert len(set(prints)) == 5 and all(len(text) == 64 for text in prints)
    for name, data in variants[0]:
        (tmp_path / name).write_bytes(data)
    files = open_images([tmp_path / "a", tmp_path / "b"])
    assert files.fingerprint == prints[0]
    assert open_images([tmp_path / "a", tmp_path / "b"], limit=1).fingerprint == prints[4]


# preprocessing


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(
    ("size", "crop_pct"),
    [((224, 224), 0.875), ((96, 96), 1.0), ((384, 384), 0.95), ((160, 224), 0.9)],
)
def test_preprocessing_equals_timm_on_the_samples(
    size: tuple[int, int], crop_pct: float, interpolation: str, crop_mode: str
) -> None:
    ours = Preprocessing(size, crop_pct, crop_mode, interpolation)
    theirs = timm.data.create_transform(  # type: ignore[attr-defined]
        (3, *size), interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode
    )
    images = open_images("samples", limit=5)
    for i in range(len(images)):
        image = images.load(i)
        expected = ours.denormalise(theirs(image)[None])[0] * 255
        found = torch.from_numpy(ours.picture(image)).permute(2, 0, 1).float()
        assert found.shape == (3, *size)
        assert (found - expected).abs().max() <= 1


def test_tensor_equals_timm_normalisation() -> None:
    ours = Preprocessing((64, 64), 1.0)
    theirs = timm.data.create_transform((3, 64, 64), crop_pct=1.0, interpolation="bicubic")  # type: ignore
    image = noise((80, 100))
    torch.testing.assert_close(ours.tensor([ours.picture(image)])[0], theirs(image))


def test_denormalise_is_the_way_back_and_differentiable() -> None:
    way = Preprocessing((8, 8))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    tensor = way.tensor(pictures).requires_grad_()
    assert tensor.shape == (3, 3, 8, 8) and tensor.dtype == torch.float32
    back = way.denormalise(tensor)
    torch.testing.assert_close(
        back.detach() * 255, torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    )
    back.sum().backward()
    assert tensor.grad is not None and tensor.grad[0, 0, 0, 0].item() == pytest.approx(way.std[0])


def test_resize_is_the_centre_crop_of_the_whole_short_side() -> None:
    assert Preprocessing((32, 32), 0.5, "resize") == Preprocessing((32, 32), 1.0, "center")


@pytest.mark.parametrize("extent", [(1, 1), (3, 200_000), (200_000, 3), (1, 5)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_tiny_and_elongated_images_fit(extent: tuple[int, int], crop_mode: str) -> None:
    picture = Preprocessing((48, 64), 0.9, crop_mode).picture(coloured((9, 9, 9), extent))
    assert picture.shape == (48, 64, 3)
    assert (picture == 9).all(axis=2)[22:26, 30:34].any()


def test_a_long_strip_is_not_scaled_up_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def watch(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        sizes.append(size)
        return resize(self, (min(size[0], 9), min(size[1], 9)), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watch)
    Preprocessing((224, 224)).picture(coloured(size=(1_000_000, 10)))
    assert sizes == [(256 * 16, 256)]


def test_cutting_a_long_strip_first_does_not_change_its_centre() -> None:
    strip = noise((2000, 20))
    way = Preprocessing((32, 32), 1.0, interpolation="bilinear")
    expected = strip.resize((3200, 32), Image.Resampling.BILINEAR).crop((1584, 0, 1616, 32))
    found = way.picture(strip)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_mode": "middle"}, 'crop_mode is "middle"'),
        ({"interpolation": "magic"}, 'interpolation is "magic"'),
        ({"crop_pct": 0.0}, "crop_pct is 0.0"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
        ({"size": (0, 4)}, r"size is \(0, 4\)"),
        ({"std": (1.0, 1.0, 0.0)}, "mean and std"),
    ],
)
def test_impossible_preprocessing_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"size": (8, 8), **changes})


def test_preprocessing_comes_from_the_pretrained_configuration() -> None:
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1)
    found = preprocessing_for(model)
    assert found.as_dict() == {
        "size": [224, 224],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    assert preprocessing_for(model, 96).size == (96, 96)
    assert preprocessing_for(model, (64, 96)).size == (64, 96)
    assert preprocessing_for(model, 96).mean == (0.5, 0.5, 0.5)
    assert "default" not in found.describe()


def test_without_a_configuration_the_imagenet_default_is_used_and_said() -> None:
    found = preprocessing_for(nn.Identity())
    assert found == Preprocessing((224, 224), 0.875)
    assert "no pretrained configuration" in found.describe() and "\n" not in found.describe()
    assert preprocessing_for(nn.Identity(), 64).size == (64, 64)


def test_part_of_a_batch_cuts_every_field_alike() -> None:
    batch = Batch(
        torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 2, 2),
        np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, 3),
        ("a", "b", "c", "d"),
        (5, 6, 7, 8),
        (10, 11, 12, 13),
    )
    part = batch.part(1, 3)
    assert len(part) == 2 and part.names == ("b", "c") and part.labels == (6, 7)
    assert part.indices == (11, 12)
    assert part.tensor[:, 0, 0, 0].tolist() == [1, 2] and part.pictures[:, 0, 0, 0].tolist() == [
        1,
        2,
    ]


def test_a_pack_holds_pictures_and_labels_of_its_folder(tmp_path, capsys) -> None:
    from workbench.cli import main

    for i, name in enumerate(("n01440764/a.png", "n01440764/b.png", "n03888257/a.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((30, 40, 3), 60 * i + 40, np.uint8)
        Image.fromarray(grey).save(file)
    (tmp_path / "photos" / "n03888257" / "cut.jpg").write_bytes(b"\xff\xd8")
    packs = [tmp_path / f"{i}.npz" for i in range(3)]
    for pack in packs[:2]:
        assert main(["pack", str(tmp_path / "photos"), str(pack), "--size", "16"]) == 0
    assert "left out: n03888257/cut.jpg" in capsys.readouterr().err
    assert packs[0].read_bytes() == packs[1].read_bytes()
    folder, packed = open_images(tmp_path / "photos"), open_images(packs[0])
    assert packed.classes == folder.classes and packed.labels == [0, 0, 1]
    assert packed.names == folder.names[:3] and packed.imagenet_index == [0, 0, 701]
    for i in range(3):
        assert packed.load(i).size == (16, 16)
        assert abs(packed.load(i).getpixel((3, 3))[0] - (60 * i + 40)) <= 1
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{n},{n[10:]}\n" for n in folder.names))
    options = ["--labels", str(table)]
    assert main(["pack", str(tmp_path / "photos"), str(packs[2]), *options]) == 0
    assert open_images(packs[2]).classes == ["a.png", "b.png", "cut.jpg"]
    table.write_text("file,label\n")
    assert main(["pack", str(tmp_path / "photos"), str(packs[2]), *options]) == 2
    assert "has no label for n01440764/a.png" in capsys.readouterr().err
