"""The one table of tolerances: law by law, for double and for single precision. Residuals are relative."""

from __future__ import annotations

import torch

# (double, single). On CPU single precision is decomposed in double, so rounding on storage is what single sees.
EXACT = (0.0, 0.0)  # a count of violated statements, or bit for bit the same
ROUNDING = (1e-11, 1e-4)  # one closed form against another
ITERATED = (1e-10, 1e-4)  # a converged mean enters
DIFFERENCE = (1e-9, 1e-3)  # a five-point first difference: eps^(4/5) times the function's own scale
SECOND_DIFFERENCE = (1e-7, 1e-2)  # a five-point second difference: eps^(2/3) times the function's own scale
GRADIENT = (1e-8, 1e-4)  # autograd in either precision against a difference in double
SINGLE = (1e-4, 1e-4)  # single precision against double, whichever is asked for
BOUNDARY = (1e-5, 1e-5)  # in double, at points of condition 1e8 by design
AMPLIFIED = (1e-9, 1e-2)  # rounding of a zero variance, times eps^-1/2 of the layer
FRACTION = (0.02, 0.02)  # of a standard deviation

TOLERANCES: dict[str, tuple[float, float]] = {
    # a Riemannian manifold
    "exp_log": ROUNDING,
    "log_exp": ROUNDING,
    "exp_velocity": DIFFERENCE,
    "retract_velocity": DIFFERENCE,
    "dist_is_norm_of_log": ROUNDING,
    "dist_symmetry": ROUNDING,
    "triangle_inequality": ROUNDING,
    "dist_to_itself": EXACT,
    "constant_speed": ROUNDING,
    "inner_is_a_metric": ROUNDING,
    "transport_isometry": ROUNDING,
    "transport_round_trip": ROUNDING,
    "transport_velocity": ROUNDING,
    "transport_is_parallel": SECOND_DIFFERENCE,
    "origin_transport_isometry": ROUNDING,
    "origin_transport_round_trip": ROUNDING,
    "origin_transport_velocity": ROUNDING,
    "origin_transport_is_parallel": SECOND_DIFFERENCE,
    "gradient_duality": ROUNDING,
    "gradient_is_tangent": ROUNDING,
    "squared_dist_gradient": ROUNDING,
    "projection": ROUNDING,
    "violation_notices": EXACT,
    "tangent_projection": ROUNDING,
    "tangent_dimension": EXACT,
    # a manifold as an object of tensors
    "batching": ROUNDING,
    "broadcasting": ROUNDING,
    "precision": SINGLE,
    "autograd": GRADIENT,
    "overrides": ROUNDING,
    "injectivity": BOUNDARY,
    "value_object": EXACT,
    "shapes": EXACT,
    # means
    "mean_is_stationary": ITERATED,
    "mean_ignores_order": ITERATED,
    "mean_weights_are_repetitions": ITERATED,
    "mean_of_batches": ITERATED,
    "mean_of_one_point": ITERATED,
    "mean_of_two_points": ITERATED,
    "mean_gradient": GRADIENT,
    "newton_hessian": DIFFERENCE,
    "mean_system_cost": ROUNDING,
    "karcher_converges": ITERATED,
    "policies_agree": ITERATED,
    "default_mean": FRACTION,
    # groups
    "group_identity": ROUNDING,
    "group_inverse": ROUNDING,
    "group_associativity": ROUNDING,
    "group_quotient": ROUNDING,
    "group_isometry": ROUNDING,
    "group_homogeneity": ITERATED,
    "group_dilation": ROUNDING,
    "gyro_identity": ROUNDING,
    "gyro_inverse": ROUNDING,
    "gyro_left_cancellation": ROUNDING,
    "gyro_associativity": ROUNDING,
    "gyro_automorphism": ROUNDING,
    "gyro_pseudo_reduction": ROUNDING,
    "gyro_gyrations_are_isometries": ROUNDING,
    "gyro_translations_are_isometries": ROUNDING,
    "gyro_scaling": ROUNDING,
    "gyro_overrides": ROUNDING,
    "gyro_homogeneity": ITERATED,
    "gyro_dilation": ROUNDING,
    # what a norm layer computes
    "output_mean_is_the_bias": ITERATED,
    "output_variance": ITERATED,
    "weighted_moments": ITERATED,
    "four_steps": ITERATED,
    "eval_four_steps": ROUNDING,
    "transport_is_gyrotranslation": ITERATED,
    "fresh_eval_is_a_dilation": ROUNDING,
    "running_statistics": ITERATED,
    "eval_repeats_training": ITERATED,
    "eval_uses_the_batch": ROUNDING,
    "bias_and_scale_can_be_assigned": ROUNDING,
    "equivariant": ITERATED,
    "invariant": ITERATED,
    "same_spectrum": ITERATED,
    # its gradients
    "gradient_through_statistics": GRADIENT,
    "gradient_in_eval": GRADIENT,
    "gradient_with_detached_statistics": ITERATED,
    "gradient_at_ties": GRADIENT,
    # a norm layer as a module
    "buffers_keep_their_storage": EXACT,
    "state_dict_round_trip": EXACT,
    "saved_weights_only": EXACT,
    "state_dict_by_assignment": EXACT,
    "copies": EXACT,
    "failed_forward_changes_nothing": EXACT,
    "layer_precision": SINGLE,
    "autocast_changes_nothing": EXACT,
    "compiled": ROUNDING,
    "paths_agree": ROUNDING,
    # its batches
    "eval_ignores_batch_mates": ROUNDING,
    "order_is_immaterial": ITERATED,
    "leading_dimensions_are_pooled": ITERATED,
    "channels_are_independent": ITERATED,
    "weights_are_repetitions": ITERATED,
    "bad_samples_are_left_out": ITERATED,
    "all_bad_batches_change_nothing": EXACT,
    "empty_batches_change_nothing": EXACT,
    "one_sample_goes_to_the_bias": AMPLIFIED,
    # its processes
    "processes_equal_one": ITERATED,
}


def tolerance_of(law: str, dtype: torch.dtype) -> float:
    """Return the tolerance of a law; ``equivariant[rotation]`` has the entry of ``equivariant``."""
    return TOLERANCES[law.split("[")[0]][0 if dtype == torch.float64 else 1]
