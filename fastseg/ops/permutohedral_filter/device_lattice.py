"""The lattice in device memory: its construction, and what it filters.

The prefix sum and the stable sort of the construction are torch's: they are CUB's, at the limit of
the memory, and csrc stays free of libraries.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from ... import _native
from . import native_cpu

_NAME = "permutohedral_filter_cuda"


def is_capturing(x: torch.Tensor) -> bool:
    """Whether a CUDA graph records what happens to x: then nothing may wait for the device."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def images_per_lattice(corners_of_image: int) -> int:
    """How many images one lattice holds; 0: not even one."""
    return _native.core(_NAME).max_corners // corners_of_image


class DeviceLattice:
    """The lattice of features [N, D, P] in device memory: that of all images is built in one go.

    Memory: per corner (D + 1 of each pixel) 20 bytes, 28 in float64; per vertex 8 * (D + 2). The
    construction takes 20 to 26 bytes more per corner meanwhile, and waits for the device once, to
    learn the number of vertices. While a CUDA graph is captured it does not: memory is then for as
    many vertices as corners, and features that do not fit into packed keys (of some thousands) make
    the results of their image NaN. Elsewhere such lattices, and those of more than 8 features, are
    built on the CPU.

    Raises:
        ValueError: features that are not finite or too large.
    """

    def __init__(self, features: torch.Tensor, first_image: int = 0) -> None:
        self.batch, count, self.pixels = features.shape
        self.corners = count + 1
        core, code = _native.core(_NAME), _native.dtype_code(features)
        shape = core.LatticeShape(dtype=code, batch=self.batch, features=count, pixels=self.pixels)
        self._known_ends: list[int] | None = None
        self._shape, self._on_host = shape, False
        capacity = self._build(features)
        if capacity is None:
            capacity = self._copy_of_host(features, first_image)

        self._entry_rows, order = self.rows.sort(stable=True)
        self.entry_pixels = _integers(features, shape.corners)
        self.entry_weights = torch.empty_like(self.weights)
        self._ranges = _integers(features, 2 * (capacity + 1)).zero_()
        entries = (self.entry_pixels, self.entry_weights, self._ranges)
        arguments = (self._entry_rows, order, self.weights, *entries)
        addresses = (a.data_ptr() for a in arguments)
        _native.launch(core, "list_entries", features, shape, *addresses)
        self.native = core.DeviceLattice(
            shape=shape,
            capacity=capacity,
            count=self._ends[-1:].data_ptr(),
            rows=self.rows.data_ptr(),
            weights=self.weights.data_ptr(),
            neighbours=self.neighbours.data_ptr(),
            entry_rows=self._entry_rows.data_ptr(),
            entry_pixels=self.entry_pixels.data_ptr(),
            entry_weights=self.entry_weights.data_ptr(),
            ranges=self._ranges.data_ptr(),
        )

    def _build(self, features: torch.Tensor) -> int | None:
        """Sets weights, rows, neighbours and ends. The number of vertices that there is memory for;
        None: the kernels, whose keys are packed, cannot build the lattice of these features."""
        core, shape = _native.core(_NAME), self._shape
        capturing = is_capturing(features)
        if self.corners - 1 > core.max_features:
            if capturing:
                raise NotImplementedError(
                    f"features has D = {self.corners - 1}: while a CUDA graph is captured, at most "
                    f"{core.max_features}"
                )
            return None

        def launch(function: str, *args: Any) -> None:
            addresses = (a.data_ptr() if isinstance(a, torch.Tensor) else a for a in args)
            _native.launch(core, function, features, shape, *addresses)

        simplices, bad = (
            _integers(features, shape.simplex_words),
            _integers(features, 1).fill_(2**31 - 1),
        )
        self.weights = features.new_empty(shape.corners)
        launch("locate", features, simplices, self.weights, bad)
        table = _integers(features, shape.table_slots).fill_(-1)
        first, is_first = (
            _integers(features, shape.padded_corners),
            _integers(features, shape.padded_corners),
        )
        launch("find_first", simplices, table, first, is_first)
        prefix = is_first.cumsum(0, dtype=torch.int32)
        self.rows, vertices = _integers(features, shape.corners), is_first
        launch("number", first, prefix, self.rows, vertices)
        del first
        # Row of the last vertex of each image.
        self._ends = prefix.view(self.batch, -1)[:, -1].clone()
        if capturing:
            capacity = shape.padded_corners
        else:
            worst, *self._known_ends = torch.cat([bad, self._ends]).tolist()
            if worst < 2**31 - 1:
                return None
            capacity = self._known_ends[-1]
        self.neighbours = _integers(features, 2 * self.corners * capacity).zero_()
        launch("link", simplices, table, prefix, vertices, capacity, self.neighbours)
        return capacity

    def _copy_of_host(self, features: torch.Tensor, first_image: int) -> int:
        """As _build, with the lattices that the CPU builds."""
        self._on_host = True
        handles = native_cpu.build(features.cpu().contiguous(), first_image)
        ends = [0]
        rows, weights, neighbours = [], [], []
        for handle in handles:
            of_image = native_cpu.tables(handle)
            # The vertices of an image follow those of the image before; row 0 is every image's.
            links = torch.where(of_image[2] > 0, of_image[2] + ends[-1], of_image[2])
            rows.append((of_image[0] + ends[-1]).T.flatten())
            weights.append(of_image[1].T.flatten())
            neighbours.append(links)
            ends.append(ends[-1] + handle.vertices)
        device = features.device
        self.rows, self.weights = torch.cat(rows).to(device), torch.cat(weights).to(device)
        self.neighbours = torch.cat(neighbours, 1).flatten().to(device)
        self._known_ends = ends[1:]
        self._ends = torch.tensor(ends[1:], dtype=torch.int32, device=device)
        return ends[-1]

    @property
    def num_vertices(self) -> list[int]:
        """Of each image."""
        ends = self._ends.tolist() if self._known_ends is None else self._known_ends
        return [end - begin for begin, end in itertools.pairwise([0, *ends])]

    def tables(self, image: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, weights and neighbours of an image, as in reference.Tables (int32)."""
        counts = self.num_vertices
        before, count = sum(counts[:image]), counts[image]

        def by_corner(x: torch.Tensor) -> torch.Tensor:
            return x.view(self.batch, self.pixels, self.corners)[image].T.contiguous()

        links = self.neighbours.view(self.corners, -1, 2)[:, before : before + count]
        return (
            by_corner(self.rows) - before,
            by_corner(self.weights),
            torch.where(links > 0, links - before, links),
        )

    def filter(self, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        """Contiguous values [N, L, P] filtered."""
        out = torch.empty_like(values)
        shape, workspace = self._work(values, transpose, backward=False)
        addresses = (x.data_ptr() for x in (values, out, workspace))
        _native.launch(
            _native.core(_NAME),
            "forward",
            values,
            self.native,
            shape,
            *addresses,
        )
        return out

    def backward(
        self, grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients to contiguous values, and to the features that the lattice was built of."""
        grad_values = torch.empty_like(values)
        grad_weights, grad_features = torch.empty_like(self.weights), torch.empty_like(features)
        shape, workspace = self._work(values, transpose, backward=True)

        def launch(function: str, shape: Any, *maps: torch.Tensor) -> None:
            _native.launch(
                _native.core(_NAME),
                function,
                values,
                *shape,
                *(x.data_ptr() for x in maps),
            )

        maps = (values, grad_out, grad_values, grad_weights, workspace)
        launch("backward", (self.native, shape), *maps)
        if not self._on_host:
            launch("backward_features", (self._shape,), features, grad_weights, grad_features)
            return grad_values, grad_features
        by_image = grad_weights.view(self.batch, self.pixels, self.corners).cpu()
        grads = [
            native_cpu.weights_to_features(image, native_cpu.in_blocks(weights))
            for image, weights in zip(features.cpu(), by_image, strict=True)
        ]
        return grad_values, torch.stack(grads).to(features.device)

    def _work(self, values: torch.Tensor, transpose: bool, backward: bool) -> tuple[Any, Any]:
        core = _native.core(_NAME)
        shape = core.Shape(
            dtype=_native.dtype_code(values),
            batch=values.shape[0],
            labels=values.shape[1],
            transpose=transpose,
        )
        size = core.workspace_bytes(self.native, shape, backward=backward)
        return shape, torch.empty(size, dtype=torch.uint8, device=values.device)


def _integers(like: torch.Tensor, size: int) -> torch.Tensor:
    """int32 [size], not filled."""
    return torch.empty(size, dtype=torch.int32, device=like.device)
