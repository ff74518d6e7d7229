"""Fields are cut by the stated policy, images resampled only when asked; each tile is what `conform` makes of the crop."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ImageError, InputError
from registry.images import Image, ImageSpec, conform, resize_linear
from serving.framing import Framing, frames_of

SPEC = ImageSpec(("dna", "er"), "uint16", 8, 6, ((0.0, 4095.0),) * 2, pixel_size_um=0.5)
GRID = Framing("grid")


def field(height: int, width: int, size_um: float | None = None) -> Image:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 4096, (2, height, width)).astype(np.uint16)
    return Image(pixels, ("dna", "er"), size_um, "field.tif")


class TestWhole:
    def test_as_offline(self) -> None:
        image = field(8, 6)
        frames = frames_of(image, SPEC)
        np.testing.assert_array_equal(frames.pixels[0], conform(image, SPEC))
        assert frames.tiles == (None,)

    def test_a_larger_field_is_refused_unless_a_policy_is_stated(self) -> None:
        with pytest.raises(ImageError, match=r"expected 8 x 6 pixels \(y, x\), got 16 x 6"):
            frames_of(field(16, 6), SPEC)


class TestGrid:
    @given(height=st.integers(8, 40), width=st.integers(6, 40))
    def test_covers_every_pixel_with_as_few_tiles_as_can(self, height: int, width: int) -> None:
        frames = frames_of(field(height, width), SPEC, GRID)
        covered = np.zeros((height, width), bool)
        for tile in frames.tiles:
            assert tile is not None
            assert (tile.height, tile.width, tile.policy) == (8, 6, "grid")
            assert 0 <= tile.y <= height - 8
            assert 0 <= tile.x <= width - 6
            covered[tile.y : tile.y + 8, tile.x : tile.x + 6] = True
        assert covered.all()
        assert len(frames.tiles) == int(np.ceil(height / 8) * np.ceil(width / 6))

    def test_each_tile_is_the_crop(self) -> None:
        image = field(20, 15)
        frames = frames_of(image, SPEC, GRID)
        for pixels, tile in zip(frames.pixels, frames.tiles, strict=True):
            assert tile is not None
            crop = Image(image.pixels[:, tile.y : tile.y + 8, tile.x : tile.x + 6], image.channel_names, None, "crop")
            np.testing.assert_array_equal(pixels, conform(crop, SPEC))

    def test_channels_are_put_in_order_in_tiles_too(self) -> None:
        image = field(16, 12)
        turned = Image(image.pixels[::-1], ("er", "dna"), None, "turned")
        np.testing.assert_array_equal(frames_of(turned, SPEC, GRID).pixels, frames_of(image, SPEC, GRID).pixels)

    def test_a_field_smaller_than_the_model(self) -> None:
        with pytest.raises(
            ImageError, match=re.escape("expected a field of at least 8 x 6 pixels (y, x), which is what the model takes, got 7 x 90")
        ):
            frames_of(field(7, 90), SPEC, GRID)

    def test_too_many_tiles(self) -> None:
        with pytest.raises(ImageError, match="is 50 tiles of 8 x 6, expected at most 49"):
            frames_of(field(80, 30), SPEC, Framing("grid", max_tiles=49))


class TestCentres:
    def test_tiles_lie_around_them(self) -> None:
        image = field(30, 30)
        frames = frames_of(image, SPEC, Framing.parse("centres", "4,3;15.4,20"))
        assert [(tile.y, tile.x) for tile in frames.tiles if tile] == [(0, 0), (11, 17)]
        np.testing.assert_array_equal(frames.pixels[1], image.pixels[:, 11:19, 17:23].astype(np.float32))

    def test_too_near_the_rim(self) -> None:
        with pytest.raises(ImageError, match=r"around \(y, x\) = \(3, 3\) does not lie in the field of 30 x 30"):
            frames_of(field(30, 30), SPEC, Framing.parse("centres", "3,3"))

    @pytest.mark.parametrize("centre", ["1e308,9", "9,-1e308", "-0.5,9", "9,61"])
    def test_far_outside(self, centre: str) -> None:
        # resampled to twice as many pixels, so that the first two have no finite place
        with pytest.raises(ImageError, match="does not lie in the field of 60 x 60"):
            frames_of(field(30, 30, 1.0), SPEC, Framing.parse("centres", centre, "true"))


class TestResampling:
    def test_refused_unless_asked_for(self) -> None:
        with pytest.raises(ImageError, match=r"expected 0\.5 um per pixel, got 0\.25"):
            frames_of(field(16, 12, 0.25), SPEC)

    def test_is_the_antialiased_resampling_of_the_offline_path(self) -> None:
        image = field(16, 12, 0.25)
        frames = frames_of(image, SPEC, Framing(resample=True))
        np.testing.assert_allclose(frames.pixels[0], resize_linear(image.pixels.astype(np.float32), 8, 6), rtol=1e-5, atol=0.01)
        (tile,) = frames.tiles
        assert tile is not None
        assert (tile.policy, tile.resampled_from_um) == ("whole", 0.25)

    def test_nothing_is_done_where_the_size_is_the_models(self) -> None:
        assert frames_of(field(8, 6, 0.51), SPEC, Framing(resample=True)).tiles == (None,)

    def test_centres_are_pixels_of_the_image_as_sent(self) -> None:
        frames = frames_of(field(60, 60, 0.25), SPEC, Framing("centres", ((30.0, 30.0),), resample=True))
        assert [(tile.y, tile.x) for tile in frames.tiles if tile] == [(11, 12)]

    def test_another_dtype_is_still_refused(self) -> None:
        image = field(16, 12, 0.25)
        with pytest.raises(ImageError, match="expected dtype uint16, got uint8"):
            frames_of(replace(image, pixels=image.pixels.astype(np.uint8)), SPEC, Framing(resample=True))

    def test_more_pixels_than_an_image_may_have(self) -> None:
        image = field(100, 90, 2.0)
        assert frames_of(image, SPEC, Framing("grid", resample=True, max_tiles=3000), 2 * 400 * 360).pixels.shape[0] == 50 * 60
        with pytest.raises(ImageError, match="resampled it would have 288000 pixels over all channels, expected at most 287999"):
            frames_of(image, SPEC, Framing("grid", resample=True), 2 * 400 * 360 - 1)

    @pytest.mark.parametrize("size_um", [0.1, 2.5, 1e-9, 1e9, 1e308, float("inf"), -0.5])
    def test_what_was_not_seen_cannot_be_made(self, size_um: float) -> None:
        with pytest.raises(ImageError, match="by at most 4 times"):
            frames_of(field(16, 12, size_um), SPEC, Framing(resample=True))


class TestIntensities:
    @pytest.mark.parametrize(("scale", "said"), [(1, 0), (0.5, 0), (16, 2), (1 / 256, 2)])
    def test_another_scale_is_said(self, scale: float, said: int) -> None:
        image = field(8, 6)
        scaled = replace(image, pixels=np.clip(image.pixels * scale, 0, 65535).astype(np.uint16))
        warnings = frames_of(scaled, SPEC).warnings
        assert len(warnings) == said
        assert all("the model was made for 0 to 4095" in text for text in warnings)

    def test_of_the_channel_it_is_about(self) -> None:
        image = field(8, 6)
        dark = image.pixels.copy()
        dark[1] = 3
        (warning,) = frames_of(replace(image, pixels=dark), SPEC).warnings
        assert warning.startswith("`er`: 99 % of the intensities lie below 3")
        assert "Nothing may be there" in warning

    def test_once_for_a_field(self) -> None:
        image = field(40, 30)
        assert len(frames_of(replace(image, pixels=image.pixels // 256), SPEC, GRID).warnings) == 2


class TestWords:
    @pytest.mark.parametrize(
        ("policy", "centres", "resample", "message"),
        [
            ("tile", "", "false", "one of refuse, grid, centres, got `tile`"),
            ("grid", "1,2", "false", "together with `field=centres`"),
            ("centres", "", "false", "together with `field=centres`"),
            ("centres", "1,2;3", "false", "`centres` as `y,x;y,x` in pixels, got `1,2;3`"),
            ("centres", "1,nan", "false", "finite"),
            ("refuse", "", "yes", "`resample` to be `true` or `false`, got `yes`"),
        ],
    )
    def test_refused(self, policy: str, centres: str, resample: str, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            Framing.parse(policy, centres, resample)
