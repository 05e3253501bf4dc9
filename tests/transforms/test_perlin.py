"""Gradient noise: what it is, point by point and beside anomalib's, and what it costs."""

import math

import pytest
import torch
from anomalib.data.utils.generators.perlin import generate_perlin_noise
from kornia.geometry.transform import rotate
from torch import Tensor

from anomalib_anoseg.transforms.perlin import FREQUENCIES, LATTICE_LINES, perlin_noise, rotate_noise


def lattice(batch_size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * math.pi * torch.rand(batch_size, LATTICE_LINES, LATTICE_LINES, generator=generator)


def pointwise_noise(gradients: Tensor, frequency: list[int], size: tuple[int, int]) -> Tensor:
    """The textbook's noise of one image: four corners, four dot products and a blend at each pixel in turn."""
    noise = torch.zeros(size, dtype=torch.float64)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for row in range(size[0]):
        for column in range(size[1]):
            (cell_y, step_y), (cell_x, step_x) = (
                divmod(pixel * cells, length)
                for pixel, cells, length in zip((row, column), frequency, size, strict=True)
            )
            y, x = step_y / size[0], step_x / size[1]
            for dy in (0, 1):
                for dx in (0, 1):
                    angle = gradients[cell_y + dy, cell_x + dx].item()
                    dot = (y - dy) * math.cos(angle) + (x - dx) * math.sin(angle)
                    weight = (fade(y) if dy else 1 - fade(y)) * (fade(x) if dx else 1 - fade(x))
                    noise[row, column] += weight * dot
    return math.sqrt(2) * noise


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (1, 7), (50, 20)])
def test_equals_the_pointwise_construction(size):
    frequency = [[1, 1], [2, 32], [16, 4], [8, 3]]
    gradients = lattice(4)
    expected = torch.stack([pointwise_noise(*each, size) for each in zip(gradients, frequency, strict=True)])
    torch.testing.assert_close(
        perlin_noise(gradients, torch.tensor(frequency), size), expected.float(), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("frequency", [(1, 1), (4, 32), (16, 2)])
def test_equals_anomalibs_noise_of_the_same_gradients(frequency):
    rows, columns = frequency
    torch.manual_seed(5)
    expected = generate_perlin_noise(128, 64, scale=frequency, device=torch.device("cpu"))
    torch.manual_seed(5)
    gradients = torch.zeros(1, LATTICE_LINES, LATTICE_LINES)
    gradients[0, : rows + 1, : columns + 1] = 2 * torch.pi * torch.rand(rows + 1, columns + 1)
    noise = perlin_noise(gradients, torch.tensor([frequency]), (128, 64))
    torch.testing.assert_close(noise[0], expected, atol=2e-6, rtol=0)


def octave_powers(noise: Tensor) -> Tensor:
    """Share of the power of ``(B, 128, 128)`` noise in each octave, by waves a side: 1, 2-3, 4-7, ..., 64-90."""
    power = torch.fft.fft2(noise - noise.mean((-2, -1), keepdim=True)).abs().square().mean(0)
    waves = torch.fft.fftfreq(128, 1 / 128)
    octave = (waves[:, None].square() + waves.square()).sqrt().clamp(min=1).log2().floor().long()
    return torch.zeros(7).index_add(0, octave.flatten(), power.flatten()) / power.sum()


@pytest.mark.parametrize("cells", FREQUENCIES)
def test_range_spread_and_spectrum_are_the_classical_ones(cells):
    torch.manual_seed(cells)
    classical = torch.stack([
        generate_perlin_noise(128, 128, scale=(cells, cells), device=torch.device("cpu")) for _ in range(100)
    ])
    ours = perlin_noise(lattice(100, seed=cells), torch.full((100, 2), cells), (128, 128))
    assert ours.abs().max() <= 1
    torch.testing.assert_close(ours.aminmax().max, classical.aminmax().max, atol=0.12, rtol=0)
    torch.testing.assert_close(ours.aminmax().min, classical.aminmax().min, atol=0.12, rtol=0)
    torch.testing.assert_close(ours.std(), classical.std(), atol=0, rtol=0.08)
    torch.testing.assert_close(octave_powers(ours), octave_powers(classical), atol=0.04, rtol=0)


def test_is_zero_at_the_points_of_the_lattice_and_nowhere_else():
    noise = perlin_noise(lattice(1), torch.tensor([[7, 8]]), (7 * 9, 8 * 5))[0]
    points = torch.zeros_like(noise, dtype=torch.bool)
    points[::9, ::5] = True
    assert torch.equal(noise == 0, points)


def test_sampled_more_finely_it_is_the_same_noise():
    gradients, frequency = lattice(2), torch.tensor([[8, 2], [1, 4]])
    coarse, fine = perlin_noise(gradients, frequency, (32, 24)), perlin_noise(gradients, frequency, (96, 72))
    torch.testing.assert_close(fine[:, ::3, ::3], coarse, atol=1e-6, rtol=0)


def test_a_smaller_lattice_suffices_for_lower_frequencies():
    frequency = torch.tensor([[4, 1]])
    expected = perlin_noise(lattice(1), frequency, (20, 20))
    torch.testing.assert_close(perlin_noise(lattice(1)[:, :5, :5], frequency, (20, 20)), expected)


def test_depends_on_nothing_but_its_arguments():
    gradients, frequency, angle = lattice(6), torch.tensor(FREQUENCIES)[:, None].repeat(1, 2), torch.arange(6.0)
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        first = rotate_noise(perlin_noise(gradients, frequency, (40, 40)), angle)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(rotate_noise(perlin_noise(gradients, frequency, (40, 40)), angle), first)
    for each in range(6):
        alone = rotate_noise(perlin_noise(gradients[each, None], frequency[each, None], (40, 40)), angle[each, None])
        torch.testing.assert_close(alone[0], first[each])


@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_rotates_as_kornia_does(size):
    noise, angle = perlin_noise(lattice(3), torch.full((3, 2), 4), size), torch.tensor([-90.0, 10.0, 63.0])
    expected = rotate(noise[:, None], angle, padding_mode="zeros")[:, 0]
    torch.testing.assert_close(rotate_noise(noise, angle), expected, atol=1e-4, rtol=0)


def test_a_rotation_brings_in_zeros():
    rotated = rotate_noise(torch.ones(1, 32, 32), torch.tensor([45.0]))[0]
    assert rotated[0, 0] == rotated[-1, 0] == rotated[0, -1] == 0
    assert rotated[16, 16] == 1
    assert torch.equal(rotate_noise(torch.ones(1, 5, 9), torch.zeros(1)), torch.ones(1, 5, 9))


def test_makes_no_host_synchronisation_and_no_loop_over_the_batch(count_operations):
    operations = []
    for batch_size in (1, 32):
        gradients, frequency, angle = lattice(batch_size), torch.full((batch_size, 2), 8), torch.zeros(batch_size)
        with count_operations() as counter:
            rotate_noise(perlin_noise(gradients, frequency, (32, 32)), angle)
        assert counter.synchronisations == 0
        operations.append(counter.operations)
    assert operations[0] == operations[1] < 100


def test_autocast_does_not_round_it():
    gradients, frequency, angle = lattice(2), torch.full((2, 2), 8), torch.tensor([30.0, -60.0])
    expected = rotate_noise(perlin_noise(gradients, frequency, (32, 32)), angle)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate_noise(perlin_noise(gradients, frequency, (32, 32)), angle), expected)
