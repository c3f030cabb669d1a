import numpy as np
import pytest
import torch

from lab.pictures import image_grid, scatter, two_axes


def test_a_grid_places_tiles_row_by_row():
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 4, 4) / 5
    grid = image_grid(images, 3, padding=1, min_tile=8)
    assert grid.shape == (2 * 9 + 1, 3 * 9 + 1)
    assert grid.dtype == np.uint8
    assert [int(grid[4, 4]), int(grid[4, 13]), int(grid[13, 22])] == [0, 51, 255]
    assert image_grid(torch.rand(3, 3, 40, 40), min_tile=40).shape == (2 * 42 + 2, 2 * 42 + 2, 3)
    with pytest.raises(ValueError, match="a grid takes"):
        image_grid(torch.rand(3, 2, 4, 4))


def test_two_axes_keep_what_varies_most():
    points = torch.randn(500, 2) * torch.tensor([5.0, 2.0]) @ torch.linalg.qr(torch.randn(4, 4))[0][:2]
    axes = two_axes(points)
    torch.testing.assert_close(torch.cdist(axes, axes), torch.cdist(points, points), atol=1e-2, rtol=1e-3)
    assert float(axes[:, 0].var()) > float(axes[:, 1].var())
    assert torch.equal(two_axes(points[:, :2]), points[:, :2])
    assert two_axes(points[:, :1]).shape == (500, 2)


@pytest.mark.slow
def test_a_map_has_a_colour_for_each_class():
    picture = scatter(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1]), ("zero", "one"))
    assert picture.shape == (600, 600, 3)
    assert {(31, 119, 180), (255, 127, 14)} <= set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert scatter(torch.randn(50, 2), torch.arange(50)).shape == (600, 600, 3)
