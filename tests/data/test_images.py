"""Reading images: bands, bits, orientation and size."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from fastseg import use_limits  # noqa: E402
from fastseg.classes import numbered_classes  # noqa: E402
from fastseg.data import DatasetError, Labelling, Pair, Split  # noqa: E402
from fastseg.data.arrays import as_bytes  # noqa: E402
from fastseg.data.images import ImageError, image_bands, read_image, viewable  # noqa: E402
from fastseg.data.orientation import as_its_image, upright  # noqa: E402


def values(bands: int, top: int = 255, dtype: str = "uint8") -> numpy.ndarray:
    """[20, 30, bands], of which the last value is the largest."""
    rng = numpy.random.default_rng(bands)
    x = rng.integers(0, top, (20, 30, bands)).astype(dtype)
    x[-1, -1, -1] = top
    return x


def deep_png(path: Path, pixels: numpy.ndarray) -> None:
    """Writes uint16 [H, W, 1 to 4] as a 16-bit PNG, which Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = pixels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# More than 8 bits: scaled by the sensor's bits, never cut to black.


@pytest.mark.parametrize(
    ("top", "white"), [(200, 255), (1000, 1023), (4000, 4095), (16000, 16383), (65535, 65535)]
)
@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64"])
def test_bits_integers_are_scaled_by_the_smallest_sensor_that_holds_them(
    top: int, white: int, dtype: str
) -> None:
    x = values(3, top, dtype)
    expected = numpy.floor(x * (255.0 / white) + 0.5)
    assert numpy.abs(as_bytes(x) - expected).max() <= 1
    assert as_bytes(x).dtype == numpy.uint8


def test_bits_what_the_file_declares_counts_unless_it_cannot_be() -> None:
    x = values(1, 900, "uint16")
    assert as_bytes(x, 4095).max() == round(900 * 255 / 4095)
    assert as_bytes(x, 800).max() == round(900 * 255 / 1023)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64", "float16"])
def test_bits_other_numbers_are_stretched(dtype: str) -> None:
    x = values(2, 800, "int32").astype(dtype) - 300
    result = as_bytes(x)
    assert (result.min(), result.max()) == (0, 255)
    scaled = (x.astype("float64") - x.min()) * 255 / (x.max() - float(x.min()))
    assert numpy.abs(result - scaled).max() <= 1


def test_bits_numbers_that_are_not_finite_do_not_matter() -> None:
    x = numpy.array([[numpy.nan, -numpy.inf], [numpy.inf, 1.0], [2.0, 3.0]])
    assert as_bytes(x).tolist() == [[0, 0], [0, 0], [128, 255]]
    assert as_bytes(numpy.full((2, 2), numpy.nan)).tolist() == [[0, 0], [0, 0]]
    widest = numpy.array([-numpy.finfo("float64").max, numpy.finfo("float64").max])
    assert as_bytes(widest).tolist() == [0, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [1000, 4000, 65535])
def test_bits_of_grey_photographs(tmp_path: Path, suffix: str, top: int) -> None:
    path, x = tmp_path / f"grey.{suffix}", values(1, top, "uint16")[..., 0]
    Image.fromarray(x).save(path)
    expected = numpy.repeat(as_bytes(x)[..., None], 3, axis=2)
    assert numpy.array_equal(read_image(path), expected)
    assert read_image(path).max() > 240


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("top", [4000, 65535])
def test_bits_of_colour_png(tmp_path: Path, channels: int, top: int) -> None:
    x = values(channels, top, "uint16")
    if channels == 4:
        x[..., 3] = 65535
    deep_png(tmp_path / "colour.png", x)
    assert numpy.array_equal(read_image(tmp_path / "colour.png"), as_bytes(x[..., :3]))


def test_bits_of_transparent_colour_png(tmp_path: Path) -> None:
    x = values(4, 4000, "uint16")
    x[:10, :, 3], x[10:, :, 3] = 0, 65535
    deep_png(tmp_path / "colour.png", x)
    result = read_image(tmp_path / "colour.png")
    assert (result[:10] == 255).all()
    assert numpy.array_equal(result[10:], as_bytes(x[..., :3])[10:])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bits_of_colour_tiff(tmp_path: Path, compression: str | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    x = values(3, 4000, "uint16")
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, x, photometric="rgb", compression=compression)
    assert numpy.array_equal(read_image(path), as_bytes(x))
    assert read_image(path).mean() > 100


# Bands: as many as the model takes.


@pytest.mark.parametrize("bands", [2, 4, 5, 12])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("first", [False, True])
def test_bands_of_npy(tmp_path: Path, bands: int, dtype: str, first: bool) -> None:
    x = values(bands, 200, dtype)
    numpy.save(tmp_path / "x.npy", x.transpose(2, 0, 1) if first else x)
    assert image_bands(tmp_path / "x.npy") == bands
    assert numpy.array_equal(read_image(tmp_path / "x.npy", bands), as_bytes(x))


@pytest.mark.parametrize("bands", [2, 4, 5, 12])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("how", ["as it comes", "bands first", "separate", "grey"])
def test_bands_of_tiff(tmp_path: Path, bands: int, dtype: str, how: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    x, path = values(bands, 200, dtype), tmp_path / "x.tif"
    if how == "as it comes":
        tifffile.imwrite(path, x, photometric="rgb" if bands == 4 else None)
    elif how == "bands first":
        tifffile.imwrite(path, x.transpose(2, 0, 1), photometric="minisblack")
    elif how == "separate":
        stored = numpy.ascontiguousarray(x.transpose(2, 0, 1))
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(path, x, photometric="minisblack", planarconfig="contig")
    assert image_bands(path) == bands
    assert numpy.array_equal(read_image(path, bands), as_bytes(x))


@pytest.mark.parametrize("format", ["png", "tif", "webp"])
def test_bands_of_four_channels_in_pillows_files(tmp_path: Path, format: str) -> None:
    if format == "tif":
        pytest.importorskip("tifffile")
    path, x = tmp_path / f"x.{format}", values(4)
    Image.fromarray(x).save(path, lossless=True, exact=True)
    assert numpy.array_equal(read_image(path, 4), x)
    assert image_bands(path) == (4 if format == "tif" else 3)


@pytest.mark.parametrize("bands", [2, 4])
def test_bands_that_are_not_the_models_are_one_line(tmp_path: Path, bands: int) -> None:
    Image.fromarray(values(3)).save(tmp_path / "photo.png")
    with pytest.raises(ImageError, match=rf"photo\.png: has 3 bands, expected {bands}"):
        read_image(tmp_path / "photo.png", bands)
    numpy.save(tmp_path / "x.npy", values(6))
    with pytest.raises(ImageError, match=rf"x\.npy: has 6 bands, expected {bands}"):
        read_image(tmp_path / "x.npy", bands)


def test_bands_one_is_grey(tmp_path: Path) -> None:
    Image.fromarray(values(3)).save(tmp_path / "photo.png")
    Image.fromarray(values(3)).convert("L").save(tmp_path / "grey.png")
    assert read_image(str(tmp_path / "grey.png"), 1).shape == (20, 30, 1)
    assert image_bands(str(tmp_path / "grey.png")) == 3
    grey = read_image(tmp_path / "grey.png", 1)
    assert numpy.array_equal(read_image(tmp_path / "photo.png", 1), grey)
    numpy.save(tmp_path / "flat.npy", grey[..., 0])
    assert numpy.array_equal(read_image(tmp_path / "flat.npy", 1), grey)
    assert numpy.array_equal(read_image(tmp_path / "flat.npy"), numpy.repeat(grey, 3, 2))


def test_bands_rgb_of_a_deep_tiff_with_infrared(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    x = values(4, 4000, "uint16")
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb", extrasamples=[0])
    assert numpy.array_equal(read_image(tmp_path / "x.tif"), as_bytes(x[..., :3]))


def test_bands_of_several_that_show() -> None:
    assert numpy.array_equal(viewable(values(5)), values(5)[..., :3])
    assert numpy.array_equal(viewable(values(2))[..., 2], values(2)[..., 0])


def test_bands_that_need_tifffile_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", values(5), photometric="minisblack")
    Image.fromarray(values(3)).save(tmp_path / "photo.tif")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImageError, match=r"pip install 'fastseg-kernels\[tiff\]'"):
        read_image(tmp_path / "x.tif", 5)
    assert numpy.array_equal(read_image(tmp_path / "photo.tif"), values(3))


# Damaged files.


@pytest.mark.parametrize("name", ["x.tif", "x.npy", "x.png", "x.jpg", "deep.png"])
@pytest.mark.parametrize("bands", [1, 3, 4, 5])
def test_damage_is_one_line(tmp_path: Path, name: str, bands: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / name
    if name == "x.tif":
        tifffile.imwrite(path, values(5), photometric="minisblack", compression="zlib")
    elif name == "x.npy":
        numpy.save(path, values(5))
    elif name == "deep.png":
        deep_png(path, values(4, 4000, "uint16"))
    else:
        Image.fromarray(values(3)).save(path)
    whole = path.read_bytes()
    rng = numpy.random.default_rng(5)
    for length in (0, 3, 9, 30, len(whole) // 2, len(whole) - 40):
        damaged = bytearray(whole[:length])
        for _ in range(3):
            if damaged:
                damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            read_image(path, bands)
        except ImageError as error:
            assert name in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [{"a": 1}, "text", numpy.array(["a", "b"]), numpy.zeros(3)])
def test_damage_arrays_that_are_no_images(tmp_path: Path, content: object) -> None:
    numpy.save(tmp_path / "x.npy", content, allow_pickle=True)
    with pytest.raises(ImageError, match=r"x\.npy: "):
        read_image(tmp_path / "x.npy")


# Size: refused before anything is allocated.


def bomb(path: Path, side: int) -> None:
    """A PNG of side x side black pixels, of a few hundred kilobytes."""
    row = zlib.compressobj(9)
    data = b"".join(row.compress(bytes(1 + side)) for _ in range(side)) + row.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [700, 13_300])  # the second is what Pillow refuses itself
def test_size_of_png_is_limited(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "bomb.png", side)
    for allowed in (side * side - 1, 1, 0):
        with use_limits(pixels=allowed):
            with pytest.raises(ImageError, match=rf"bomb\.png: .*allowed are {allowed}; .*--max-"):
                read_image(tmp_path / "bomb.png")
    if side < 1000:
        with use_limits(pixels=side * side):
            assert read_image(tmp_path / "bomb.png").shape == (side, side, 3)
    else:
        with pytest.raises(ImageError, match="13300 x 13300 pixels, allowed are 89478485"):
            read_image(tmp_path / "bomb.png")


def test_size_may_be_raised_beyond_pillows_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    bomb(tmp_path / "bomb.png", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "bomb.png").shape == (50, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_size_limits_hold_in_the_threads_that_read_a_data_set(tmp_path: Path) -> None:
    for name in "abcd":
        bomb(tmp_path / f"{name}.png", 50)
    pairs = [Pair(n, tmp_path / f"{n}.png", tmp_path / f"{n}.png") for n in "abcd"]
    labelling = Labelling(numbered_classes(2), {0: 0, 1: 1, 255: 255}, None, "here")
    with use_limits(pixels=2499):
        with pytest.raises(DatasetError, match="50 x 50 pixels, allowed are 2499"):
            Split("", pairs, labelling, threads=2)
    assert len(Split("", pairs, labelling, threads=2)) == 4


def test_size_of_arrays_is_limited(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", numpy.zeros((100, 101, 5), "uint8"))
    with use_limits(pixels=10_000):
        with pytest.raises(ImageError, match=r"x\.npy: has 101 x 100 pixels of 5 bands, allowed"):
            read_image(tmp_path / "x.npy", 5)
    header = numpy.lib.format.header_data_from_array_1_0(numpy.zeros((1, 1, 3)))
    header["shape"] = (2_000_000, 1_000_000, 3)
    with (tmp_path / "claim.npy").open("wb") as file:
        numpy.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ImageError, match=r"claim\.npy: "):
        read_image(tmp_path / "claim.npy")
    tifffile = pytest.importorskip("tifffile")
    zeros = numpy.zeros((100, 101, 3), "uint16")
    tifffile.imwrite(tmp_path / "x.tif", zeros, photometric="rgb", compression="zlib")
    with use_limits(pixels=10_000), pytest.raises(ImageError, match=r"x\.tif: has 101 x 100"):
        read_image(tmp_path / "x.tif")


# Orientation: one rule for an image and its label map.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_orientation_turns_as_pillow_does(tmp_path: Path, orientation: int, suffix: str) -> None:
    x, exif = values(3), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(x).save(tmp_path / f"x.{suffix}", exif=exif, quality=100, subsampling=0)
    expected = upright(x, orientation)
    result = read_image(tmp_path / f"x.{suffix}")
    assert result.shape == expected.shape
    if suffix != "jpg":
        assert numpy.array_equal(result, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff_of_bands(tmp_path: Path, orientation: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "x.tif", values(5), photometric="minisblack",
                     planarconfig="contig", extratags=[tag])  # fmt: skip
    assert numpy.array_equal(read_image(tmp_path / "x.tif", 5), upright(values(5), orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(20, 30), (20, 20)])
def test_orientation_of_a_label_drawn_on_stored_pixels(
    orientation: int, shape: tuple[int, int]
) -> None:
    label = numpy.random.default_rng(0).integers(0, 3, shape)
    size = upright(label, orientation).shape
    turned = as_its_image(label, size, orientation)
    assert turned is not None
    assert numpy.array_equal(turned, upright(label, orientation))
    # One with the same orientation in its own file is upright when it has been read.
    own = as_its_image(upright(label, orientation), size, orientation, orientation)
    assert own is not None
    assert numpy.array_equal(own, turned) or orientation == 1


@pytest.mark.parametrize("orientation", range(5, 9))
def test_orientation_of_a_label_drawn_on_the_upright_image(orientation: int) -> None:
    label = numpy.random.default_rng(0).integers(0, 3, (30, 20))
    found = as_its_image(label, (30, 20), orientation)
    assert found is not None
    assert numpy.array_equal(found, label)
    assert as_its_image(label, (31, 20), orientation) is None
