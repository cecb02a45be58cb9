"""What the kernels may take at most in sm_90's machine code (see tools/sass.py), over their
instances of other types than double: those of csrc/resources.json, loops rounded up by a
twentieth."""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """Of the hot loop: its instructions, byte permutations and 64-bit products, and how soon a
    load's value is used at the earliest; instructions in double precision of the whole kernel."""

    loop: int
    prmt: int
    wide: int
    double: int
    first_use: int


BUDGETS = {
    "deformable_attention_bwd_points_kernel": Budget(109, 0, 0, 0, 8),
    "deformable_attention_bwd_value_kernel": Budget(131, 4, 4, 0, 4),
    "deformable_attention_fwd_kernel": Budget(273, 16, 10, 0, 5),
    "dilated_conv2d_bwd_reduce_kernel": Budget(152, 0, 0, 0, 53),
    "dilated_conv2d_fwd_bwd_march_kernel": Budget(248, 2, 18, 0, 53),
    "dilated_conv2d_fwd_bwd_taps_kernel": Budget(2775, 18, 135, 0, 1),
    "mask_argmax_fwd_kernel": Budget(298, 0, 1, 70, 9),
    "mean_field_fwd_bwd_mix_kernel": Budget(44, 0, 0, 0, 9),
    "mean_field_fwd_bwd_step_kernel": Budget(188, 0, 4, 0, 3),
    "permutohedral_filter_bwd_weights_kernel": Budget(58, 0, 0, 0, 11),
    "permutohedral_filter_fwd_bwd_blur_kernel": Budget(0, 0, 0, 0, 500),
    "permutohedral_filter_fwd_bwd_group_kernel": Budget(37, 0, 0, 0, 10),
    "permutohedral_filter_fwd_bwd_merge_kernel": Budget(56, 0, 4, 0, 7),
    "permutohedral_filter_fwd_bwd_rows_kernel": Budget(33, 0, 1, 0, 6),
    "permutohedral_filter_fwd_bwd_slice_kernel": Budget(53, 0, 3, 0, 3),
    "permutohedral_filter_fwd_bwd_splat_kernel": Budget(327, 4, 20, 0, 66),
    "permutohedral_lattice_bwd_kernel": Budget(0, 0, 0, 0, 500),
    "permutohedral_lattice_fwd_entries_kernel": Budget(0, 0, 0, 0, 500),
    "permutohedral_lattice_fwd_first_kernel": Budget(0, 0, 0, 0, 500),
    "permutohedral_lattice_fwd_insert_kernel": Budget(122, 6, 5, 0, 3),
    "permutohedral_lattice_fwd_link_kernel": Budget(111, 6, 5, 0, 2),
    "permutohedral_lattice_fwd_locate_kernel": Budget(0, 0, 0, 0, 500),
    "permutohedral_lattice_fwd_number_kernel": Budget(0, 0, 0, 0, 500),
    "pyramid_pool_bwd_packs_kernel": Budget(472, 8, 17, 0, 53),
    "pyramid_pool_bwd_tiles_kernel": Budget(282, 0, 16, 0, 52),
    "pyramid_pool_fwd_cells_kernel": Budget(187, 0, 8, 0, 27),
    "pyramid_pool_fwd_packs_kernel": Budget(203, 0, 4, 0, 21),
    "pyramid_pool_fwd_tiles_kernel": Budget(175, 0, 4, 0, 4),
    "upsample_argmax_fwd_kernel": Budget(77, 0, 4, 212, 4),
    "upsample_bilinear_bwd_kernel": Budget(1339, 18, 14, 105, 11),
    "upsample_bilinear_fwd_kernel": Budget(404, 16, 17, 248, 3),
    "upsample_class_sums_bwd_kernel": Budget(1130, 5, 20, 0, 13),
    "upsample_class_sums_fwd_bwd_pixels_kernel": Budget(909, 0, 32, 0, 11),
    "upsample_class_sums_fwd_bwd_tables_kernel": Budget(33, 0, 0, 168, 500),
    "upsample_class_sums_fwd_kernel": Budget(2326, 10, 36, 146, 12),
    "upsample_class_sums_fwd_total_kernel": Budget(27, 0, 0, 5, 10),
    "upsample_confusion_matrix_fwd_kernel": Budget(77, 0, 4, 212, 4),
    "upsample_cross_entropy_bwd_kernel": Budget(71, 0, 4, 426, 21),
    "upsample_cross_entropy_fwd_kernel": Budget(72, 0, 16, 306, 30),
    "upsample_cross_entropy_fwd_total_kernel": Budget(75, 0, 0, 109, 11),
    "upsample_taps_bwd_kernel": Budget(183, 8, 4, 84, 15),
    "upsample_taps_fwd_kernel": Budget(762, 0, 20, 24, 4),
    "window_filter_bwd_features_kernel": Budget(145, 0, 10, 0, 41),
    "window_filter_fwd_kernel": Budget(71, 0, 1, 0, 8),
}
