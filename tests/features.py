"""What a training system should do, row by row, each with the tests that show whether this one does.

``python -m tests.features`` runs the tests of all rows, prints the table and writes it to docs/features.md.
``python -m tests.features A4 K`` runs some rows, or a whole part, and writes nothing; ``-n 2`` uses two processes.

A row is built if the tests that it names exist. ``missing`` says what of it is not there, however well they pass.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "features.md"
PASS, PART, FAIL, OPEN, SKIPPED = "pass", "pass, in part", "FAIL", "not built", "skipped here"


class Row(NamedTuple):
    """One thing that can be shown."""

    id: str
    name: str
    check: str
    """What is done, and what has to come out."""
    tests: tuple[str, ...] = ()
    """``FOLDER/FILE::NAME``, without ``tests/``, ``test_`` and ``.py``."""
    missing: str = ""
    """What of the row is not built."""


PARTS = {
    "A": "Starting and configuring a run",
    "D": "Optimisation and schedules",
    "E": "The loop",
    "F": "Mixed precision",
    "G": "Several processes",
    "J": "Checkpoints and going on",
    "K": "Interruptions",
}

RADAR = "a recipe of camera-radar detectors"

ROWS = (
    Row(
        "A1",
        "one command trains from a recipe or a change file",
        "detectors of boxes on images and in space and a binary classifier train by `sightline train`, and a YAML file "
        "with changes is a recipe; "
        "exit code 0",
        (
            "cli/commands::training_sums_up_what_it_is_going_to_do",
            "cli/commands::a_change_file_is_a_recipe_with_changes",
            "cli/lidar3d::training_tells_space_data_losses_and_average_precision",
            "cli/binary_networks::the_console_tells_epochs_speed_time_and_the_mean_time_without_the_first_epoch",
        ),
        RADAR,
    ),
    Row(
        "A2",
        "typed configuration whose every value tells its origin",
        "`--print-config` shows all keys and where each came from, and what it prints is a change file again",
        (
            "cli/commands::every_value_says_where_it_came_from",
            "cli/commands::what_is_printed_is_a_change_file_that_gives_the_same_configuration",
        ),
    ),
    Row(
        "A3",
        "any key is changed on the command line, with its type checked",
        "changes reach every level; a wrong value is refused with key and cure",
        ("config/override::changes_reach_every_level", "config/override::a_wrong_change_names_key_value_and_cure"),
    ),
    Row(
        "A4",
        "a misspelt key is an error at every level",
        "exit code 2 and the nearest right key, also inside of lists and groups and for names of other tools",
        (
            "config/override::a_mistake_inside_a_list_or_group_names_the_place_and_the_nearest_right_key",
            "config/override::names_of_other_tools_lead_to_ours",
            "cli/mistakes::a_mistake_is_answered_with_its_cure_and_leaves_nothing",
        ),
    ),
    Row(
        "A5",
        "a key that does nothing is reported",
        "a change without effect is refused with its reason",
        ("config/override::a_change_without_effect_is_refused_with_its_reason",),
    ),
    Row(
        "A6",
        "a run can be repeated from its own folder",
        "configuration, command, versions and commit are recorded; `train --from RUN` repeats the losses bit for bit",
        (
            "cli/commands::repeating_a_run_gives_the_same_losses_bit_for_bit",
            "engine/run_folder/run_folder::the_record_tells_every_start_and_end",
            "engine/run_folder/run_folder::the_commit_is_read_from_gits_files",
        ),
    ),
    Row(
        "A7",
        "no run is overwritten, and two processes never write one folder",
        "a second writer ends with a message that names the first; folders of many starts at once differ",
        (
            "engine/run_folder/lock::the_second_writer_is_told_who_the_first_is",
            "engine/run_folder/run_folder::many_at_once_get_different_folders",
            "engine/run_folder/run_folder::a_run_is_never_overwritten",
        ),
    ),
    Row(
        "A8",
        "the log begins and ends with a banner that names the run",
        "both banners stand in the run's log, around every word of the console",
        ("cli/log::the_log_of_a_run_has_every_word_of_the_console_between_two_banners",),
    ),
    Row(
        "A9",
        "levels of the log",
        "a level decides what is shown; the file has the figures in any case",
        (
            "engine/run_folder/run_log::a_level_decides_what_is_shown_and_the_file_has_the_figures_in_any_case",
            "cli/log::quiet_prints_nothing_and_the_log_has_it_all_the_same",
        ),
    ),
    Row(
        "A10",
        "one seed for every random number",
        "the same command twice gives the same metric rows, bit for bit",
        (
            "cli/commands::repeating_a_run_gives_the_same_losses_bit_for_bit",
            "engine/seed::seeding_everything_repeats_every_generator",
        ),
    ),
    Row(
        "A11",
        "the result does not depend on workers or processes",
        "all kinds and numbers of workers make the same bits; 1, 2 and 3 processes take the same steps",
        (
            "data/loader::all_workers_make_the_same_bits",
            "engine/distributed/processes::processes_see_the_samples_and_take_the_steps_of_one",
            "engine/precision::deterministic_kernels_can_be_switched_on_and_off",
        ),
    ),
    Row(
        "A12",
        "the search for the fastest GPU kernels can be switched off",
        "`cudnn_benchmark=false` does, and so does `deterministic=true`; both are accepted on a CPU",
        (
            "engine/precision::the_search_for_the_fastest_kernels_has_a_switch_of_its_own",
            "engine/precision::a_run_on_a_cpu_may_say_so_too_and_an_evaluation_of_it",
            "engine/precision::bits_that_never_change_leave_nothing_to_search_for",
            "engine/precision::deterministic_kernels_can_be_switched_on_and_off",
        ),
    ),
    Row(
        "A13",
        "any device, the CPU included, with the same code",
        "a run on a CPU; a device that is not there is named with its cure",
        (
            "cli/commands::training_sums_up_what_it_is_going_to_do",
            "api/preflight::a_device_that_is_not_there_does_not_hide_the_rest",
            "cli/lidar3d::training_tells_space_data_losses_and_average_precision",
            "cli/binary_networks::the_console_tells_epochs_speed_time_and_the_mean_time_without_the_first_epoch",
        ),
        RADAR,
    ),
    Row(
        "A14",
        "GPUs are chosen without changing the environment",
        "`device=0,2` starts a process on the first and on the third one; one that is not there is named; under a "
        "launcher the local rank counts",
        (
            "engine/device::named_gpus_start_a_process_each_and_leave_the_environment_as_it_is",
            "engine/device::every_process_has_the_gpu_of_its_place_among_those_named",
            "engine/device::gpus_that_are_not_there_are_named",
            "cli/many_processes::what_launchers_say",
        ),
    ),
    Row(
        "A15",
        "installs without a compiler",
        "the package is pure Python, and a LiDAR detector trains where no program can be found",
        (
            "features::the_package_is_pure_python_under_a_permissive_licence",
            "cli/lidar3d::a_detector_trains_where_no_compiler_can_be_found",
        ),
    ),
    Row(
        "A16",
        "a permissive licence, in the wheel",
        "the installed package carries the text of Apache-2.0",
        ("features::the_package_is_pure_python_under_a_permissive_licence",),
    ),
    Row(
        "A17",
        "a look at everything before a run begins",
        "`sightline check RECIPE` lists all problems of data, model, memory and disk at once; nothing is written",
        (
            "api/preflight::a_sound_run_can_start_and_nothing_is_written",
            "api/preflight::all_problems_are_told_at_once",
            "api/preflight::the_command_ends_with_2_at_a_problem",
            "api/preflight::any_task_is_checked",
        ),
    ),
    Row(
        "A18",
        "a smoke run through the whole path",
        "`limit_batches=1`: epochs end after the limit with the same first batches",
        (
            "engine/limited_loader::epochs_end_after_the_limit_with_the_same_first_batches",
            "cli/binary_networks::a_dry_run_writes_nothing_and_a_test_run_takes_a_batch_an_epoch",
        ),
    ),
    Row(
        "A19",
        "a time limit",
        "`max_time` ends a run before the step that would not fit, during an evaluation too, to be gone on with",
        (
            "faults/interruptions::time_that_runs_out_stops_the_run_so_early_that_the_next_step_would_have_fitted",
            "faults/interruptions::time_that_runs_out_during_an_evaluation_cuts_it_short",
        ),
        "a schedule that is squeezed into the limit",
    ),
    Row(
        "A20",
        "a Python face that is equal to the command line",
        "training, evaluation and prediction from Python give the bits of the commands",
        (
            "api/python_face::training_from_python_gives_the_bits_of_the_command_line",
            "api/python_face::evaluation_from_python_gives_the_figures_of_the_command_line",
            "api/python_face::prediction_from_python_gives_the_boxes_of_the_command_line",
        ),
    ),
    Row(
        "D1",
        "SGD with Nesterov momentum, Adam, AdamW, and MXNet's rules",
        "steps are those of PyTorch to the bit, and those recorded of YOLOv7 and BMXNet",
        (
            "engine/optim::fused_steps_are_those_of_torch_to_the_bit",
            "engine/optim::a_step_by_hand",
            "parity/yolov7_trainstep::all_steps_with_operations_in_the_recorded_order",
            "parity/bmxnet_training::every_loss_and_the_last_weights_and_statistics_are_the_recorded_ones",
        ),
    ),
    Row(
        "D2",
        "one cycle of rate and momentum, with true weight decay",
        "every iteration has the rate and momentum recorded of OpenPCDet; AdamW's decay is PyTorch's",
        (
            "parity/openpcdet_schedule::every_iteration_has_the_recorded_rate_and_momentum",
            "parity/openpcdet_optimisation::parameters_after_every_step_are_as_recorded",
            "engine/optim::fused_steps_are_those_of_torch_to_the_bit",
        ),
    ),
    Row(
        "D3",
        "parameter groups by rules",
        "sizes add up to all parameters; a parameter in no group or in two is an error; the groups recorded of YOLOv7",
        (
            "engine/parameter_groups::the_sizes_of_all_groups_add_up_to_the_trainable_parameters",
            "engine/parameter_groups::a_parameter_in_no_group_is_named",
            "engine/parameter_groups::a_parameter_in_two_groups_is_named_with_both",
            "cli/commands::the_table_of_groups_holds_every_parameter_once",
            "parity/yolov7_optim::every_recorded_network_is_split_into_the_recorded_groups",
        ),
    ),
    Row(
        "D4",
        "weight decay that follows the batch",
        "the value of the formula, as recorded for every batch size",
        (
            "engine/optim::the_decay_may_follow_the_batch",
            "parity/yolov7_optim::the_weight_decay_follows_every_recorded_batch_size",
        ),
    ),
    Row(
        "D5",
        "warm-up of rate, bias rate and momentum",
        "every recorded iteration of YOLOv7 and mmdetection",
        (
            "engine/schedule::biases_warm_up_from_above_and_the_momentum_from_below",
            "parity/yolov7_optim::every_recorded_iteration_has_its_learning_rates_momentum_and_accumulation",
            "parity/mmdet_schedule::every_iteration_of_our_policies_with_every_warm_up_has_the_recorded_rate",
        ),
    ),
    Row(
        "D6",
        "all usual schedules and chains of them, drawn before the run",
        "curves are PyTorch's and those recorded of BMXNet and mmdetection; `plot-lr` writes picture and table",
        (
            "engine/schedule::the_curves_are_those_of_torch",
            "engine/schedule::a_chain_hands_over_at_each_begin",
            "parity/bmxnet_schedule::every_update_has_the_recorded_rate",
            "parity/bmxnet_schedule::every_update_of_the_recipes_has_the_recorded_rate",
            "cli/commands::the_schedule_is_drawn_before_a_run_begins",
        ),
    ),
    Row(
        "D7",
        "learning rates in every row",
        "rows tell step, epoch, losses and the rate of every group",
        ("engine/session::rows_tell_step_epoch_losses_and_rates",),
    ),
    Row(
        "D8",
        "exact accumulation of gradients",
        "micro-batches train as whole batches do; the last window of an epoch is neither lost nor mis-scaled",
        (
            "engine/accumulation::accumulated_micro_batches_train_as_whole_batches_do",
            "engine/accumulation::windows_tile_the_run_and_no_sample_is_lost_or_mis_scaled",
        ),
    ),
    Row(
        "D9",
        "clipping by the global norm, and the norm measured",
        "the bits of PyTorch; `log.grad_norm` measures without clipping",
        ("engine/clip::the_bits_are_those_of_torch", "engine/clip::without_a_limit_it_only_measures"),
    ),
    Row(
        "D10",
        "a loss whose gradient does not depend on how the batch is cut",
        "the detector's loss does not grow with the batch, and parts of a batch give its gradient",
        (
            "models/yolov7_loss::loss_does_not_grow_with_the_batch",
            "models/yolov7_shares::losses_and_gradients_are_those_of_one_process",
            "engine/accumulation::the_sum_of_gradients_keeps_its_size_in_a_short_window",
        ),
    ),
    Row(
        "D11",
        "OTA and plain assignment",
        "losses and gradients are the recorded ones of YOLOv7",
        ("parity/yolov7_loss::losses_and_gradients_are_the_recorded_ones",),
    ),
    Row(
        "D12",
        "losses and gradients that are not finite",
        "stop, skip, or roll back in memory and go on; the first bad tensor and the samples are named",
        (
            "engine/session::a_nan_stops_the_run_and_names_step_loss_and_samples",
            "engine/session::a_nan_is_left_out_on_request_and_counted",
            "engine/rollback::a_rollback_brings_everything_back_and_goes_on_with_the_next_samples",
            "engine/rollback::a_detector_names_the_layer_and_the_pictures",
        ),
    ),
    Row(
        "D13",
        "out of memory",
        "batches run in halves, in any epoch, with the losses and weights of whole ones",
        (
            "engine/parts::halving_changes_neither_losses_nor_weights",
            "engine/parts::a_killed_run_goes_on_in_the_same_parts_with_the_same_bits",
            "engine/parts::a_detector_in_parts_has_the_losses_of_whole_batches",
        ),
    ),
    Row(
        "D14",
        "the batch size found automatically",
        "`batch_size=auto` finds the largest that fits a share of memory, prints it, records it and goes on with it",
        (
            "api/auto_batch::it_is_printed_recorded_and_repeated",
            "api/auto_batch::a_run_that_goes_on_has_its_size",
            "engine/auto_batch::the_largest_size_that_fits_is_found_and_was_measured",
        ),
    ),
    Row(
        "D15",
        "label smoothing, weights of positives and of classes, focal loss",
        "values by hand and the recorded losses; weights that are not those of the classes are refused",
        (
            "models/yolov7_loss::classes_count_by_their_weights_each_by_the_class_of_its_box",
            "models/yolov7_loss::weights_of_other_classes_are_refused",
            "losses/smoothing::half_of_the_smoothing_goes_each_way",
            "losses/focal::focal_by_hand",
            "parity/yolov7_loss::losses_and_gradients_are_the_recorded_ones",
        ),
    ),
    Row(
        "D16",
        "search for hyper-parameters",
        "kill and restart continue at the same trial",
        (
            "api/search::a_search_killed_at_random_moments_equals_an_unbroken_one",
            "api/search::two_jobs_are_one_job",
            "api/search::a_trial_that_diverges_is_noted_and_the_search_goes_on",
            "cli/search::trials_outlive_a_killed_search_only_to_save_and_the_same_command_goes_on",
        ),
    ),
    Row(
        "D17",
        "the batch is global",
        "a global batch holds the same samples for any number of processes",
        ("data/sampler::a_global_batch_holds_the_same_samples_for_any_number_of_processes",),
    ),
    Row(
        "E1",
        "a run measured in epochs, steps or samples",
        "a run counted in steps is the beginning of one counted in epochs; one counted in samples ends with the step "
        "that reaches them",
        (
            "engine/accumulation::epochs_steps_and_samples_are_three_ways_to_say_one_length",
            "engine/accumulation::a_run_counted_in_samples_ends_with_the_step_that_reaches_them",
            "engine/session::a_run_of_so_many_samples_is_one_of_so_many_steps_also_after_a_stop",
            "engine/accumulation::a_run_counted_in_steps_is_the_beginning_of_one_counted_in_epochs",
            "engine/accumulation::a_run_has_one_length",
        ),
    ),
    Row(
        "E2",
        "training and evaluation mode",
        "every part predicts in evaluation mode and is in its own mode after, also after an error",
        (
            "engine/evaluation::every_part_is_in_evaluation_mode_while_it_predicts_and_in_its_own_mode_after",
            "engine/evaluation::modes_come_back_after_an_error_too",
        ),
    ),
    Row(
        "E3",
        "forward, backward, clip, step, in this order",
        "the loop ends with the weights of a plain PyTorch loop, bit for bit",
        (
            "engine/session::our_loop_and_the_plain_one_end_with_equal_weights",
            "examples::the_engine_gives_the_bits_of_a_plain_loop",
        ),
    ),
    Row(
        "E4",
        "a task of one's own plugs in",
        "losses by name from one function; such a task trains, evaluates and saves predictions in its own format",
        (
            "examples::a_run_has_the_bits_of_a_plain_loop_and_an_average_beside_them",
            "cli/evaluation::a_task_of_any_kind_is_evaluated_and_saves_in_its_own_format",
        ),
    ),
    Row(
        "E5",
        "one count of steps over all epochs and resumes",
        "the rows of a resumed run are those of an unbroken one",
        (
            "engine/session::a_crashed_and_resumed_run_ends_with_the_bits_of_an_unbroken_one",
            "engine/run_folder/metrics_log::a_run_that_is_cut_back_and_goes_on_has_the_bytes_of_an_unbroken_one",
        ),
    ),
    Row(
        "E6",
        "cycles of training and validation",
        "`[[train, 2], [val, 1]]` shows in the log in this order, as recorded of mmdetection",
        (
            "engine/evaluation::a_cycle_of_training_and_validation_shows_in_the_log_in_its_order",
            "parity/mmdet_cycles::turns_follow_each_other_to_the_end_of_the_run",
            "cli/evaluation::a_detector_is_trained_and_validated_in_turns",
        ),
    ),
    Row(
        "E7",
        "callbacks whose failures are named",
        "they are called in their order; one that raises ends the run and is named, and the checkpoint is whole",
        (
            "engine/callbacks/crew::callbacks_are_called_in_the_order_of_their_list",
            "engine/callbacks/crew::a_failure_is_named_and_the_run_goes_on_from_its_newest_checkpoint",
            "cli/callbacks::a_failure_ends_the_run_with_exit_code_1_and_it_can_be_continued",
        ),
    ),
    Row(
        "E8",
        "a look at activations and gradients",
        "`watch={layers: [...]}` writes their figures, which are those of what the layer put out",
        (
            "engine/callbacks/watch::figures_are_those_of_what_the_layer_put_out",
            "cli/callbacks::watchers_of_the_configuration_work_with_the_detector",
        ),
    ),
    Row(
        "E9",
        "running losses every N steps",
        "a line per interval with losses, rate, speed and time left",
        ("cli/commands::piped_progress_is_plain_lines_with_losses_rate_and_speed",),
    ),
    Row(
        "E10",
        "figures of an evaluation are its own",
        "an evaluation knows nothing of the one before",
        ("engine/evaluation::a_figure_is_of_one_evaluation_and_knows_nothing_of_the_one_before",),
    ),
    Row(
        "E11",
        "where the time of a step goes",
        "`profile=N` tells the shares of data, forward, backward, optimizer and callbacks; the loop is lean",
        (
            "engine/callbacks/profiler::waiting_for_data_and_slow_callbacks_are_named",
            "benchmarks/loop::a_step_of_ours_takes_fewer_function_calls_than_the_same_duties_by_hand",
        ),
    ),
    Row(
        "E12",
        "time left",
        "right after 20 steps of constant pace, start-up left out; `status RUN` tells it while the run goes on",
        (
            "engine/callbacks/beat::after_20_steps_of_constant_pace_the_time_left_is_right_and_start_up_does_not_count",
            "engine/log::pauses_between_epochs_count_as_often_as_epochs_are_left",
            "cli/status::a_run_that_works_tells_its_time_left_and_one_that_was_killed_is_dead",
        ),
    ),
    Row(
        "E13",
        "time of epochs",
        "the first, and the mean of those after it",
        ("engine/callbacks/profiler::epochs_are_timed_with_their_evaluation_and_a_mean_without_the_first",),
    ),
    Row(
        "E14",
        "the host does not wait for the device in a step",
        "losses are added up on the device; on an accelerator the host looks later",
        ("engine/finite::on_an_accelerator_the_flag_is_a_tensor_and_the_host_looks_later",),
        "a profile of a real GPU; no GPU is at hand here",
    ),
    Row(
        "E15",
        "compiled tasks",
        "`compile=true` gives the losses of the plain task; what `compile=try` cannot compile runs as it is written",
        (
            "engine/session::what_cannot_be_compiled_runs_as_it_is_written_and_that_is_told_once",
            "engine/session::a_compiler_that_fails_costs_no_step_and_an_error_of_the_model_is_its_own",
            "engine/session::a_compiled_task_has_the_losses_of_the_plain_one",
            "engine/session::compile_is_asked_of_the_parts_that_the_task_names",
        ),
        "compiling the optimizer's part of a step",
    ),
    Row(
        "F1",
        "fp16 with a scaled loss",
        "gradients are the true ones; the scale follows PyTorch's rule",
        (
            "engine/precision::scaled_and_unscaled_gradients_are_the_true_ones",
            "engine/precision::the_scale_follows_the_rule_of_torch",
        ),
    ),
    Row(
        "F2",
        "bf16, on a CPU too",
        "the forward pass computes in it, and weights stay fp32",
        ("engine/precision::the_forward_pass_computes_in_the_chosen_format_and_weights_stay_float32",),
    ),
    Row(
        "F3",
        "the scale is part of a checkpoint",
        "it is restored to the bit",
        ("engine/precision::the_state_of_the_scaler_is_restored_to_the_bit",),
    ),
    Row(
        "F4",
        "gradients are unscaled before they are clipped",
        "an overflow skips the step, and training goes on with a smaller scale",
        (
            "engine/precision::an_overflow_skips_the_step_and_training_goes_on_with_a_smaller_scale",
            "engine/precision::scaled_and_unscaled_gradients_are_the_true_ones",
        ),
    ),
    Row(
        "F5",
        "checkpoints are in full precision",
        "weights stay fp32 under mixed precision; tensors of every type come back bit for bit",
        (
            "engine/precision::the_forward_pass_computes_in_the_chosen_format_and_weights_stay_float32",
            "engine/checkpoint/checkpoint::tensors_of_every_type_and_memory_order_come_back_bit_for_bit",
        ),
    ),
    Row(
        "G1",
        "several processes give the run of one",
        "2 and 3 processes see the samples and take the steps of one, with the same global batch",
        (
            "engine/distributed/processes::processes_see_the_samples_and_take_the_steps_of_one",
            "engine/distributed/lidar_processes::processes_see_the_frames_and_take_the_steps_of_one",
            "cli/many_processes::devices_2_trains_in_two_processes_and_one_writes",
        ),
    ),
    Row(
        "G2",
        "gradients weighted by true counts",
        "boxes spread unevenly over processes, shares without samples: as in one process",
        (
            "engine/distributed/processes::a_detector_with_boxes_spread_unevenly_trains_the_same_in_1_2_and_3_processes",
            "engine/distributed/sync_batch_norm::uneven_and_empty_shares_give_the_gradients_and_statistics_of_one_process",
            "models/lidar_shares::losses_gradients_and_statistics_are_those_of_one_process",
        ),
    ),
    Row(
        "G3",
        "starts with and without a launcher",
        "`devices=2` starts its own processes; torchrun, srun and mpirun are understood; two hosts train one model",
        (
            "cli/many_processes::devices_2_trains_in_two_processes_and_one_writes",
            "cli/many_processes::what_launchers_say",
            "cli/many_processes::two_rendezvous_hosts_on_loopback_train_one_model",
        ),
    ),
    Row(
        "G4",
        "every epoch has its own order",
        "it differs between epochs and is the same for any number of processes",
        (
            "data/sampler::every_epoch_has_its_own_order_and_jumping_gives_the_same",
            "data/sampler::all_processes_together_have_every_sample_exactly_once",
        ),
    ),
    Row(
        "G5",
        "one process writes",
        "one folder, one log, one set of checkpoints",
        ("cli/many_processes::devices_2_trains_in_two_processes_and_one_writes",),
    ),
    Row(
        "G6",
        "exact evaluation in several processes",
        "no sample twice and none lost; figures of 1, 2 and 3 processes are equal",
        (
            "engine/distributed/processes::processes_see_the_samples_and_take_the_steps_of_one",
            "engine/evaluation::all_processes_come_to_the_validation_losses_of_one",
        ),
    ),
    Row(
        "G7",
        "evaluation in one process",
        "figures of every evaluation are logged",
        ("cli/evaluation::figures_and_losses_of_every_step_are_told_and_logged",),
    ),
    Row(
        "G8",
        "models larger than one GPU (FSDP)",
        "each process holds its part of everything; losses, weights, figures and checkpoints are those of one process",
        (
            "engine/distributed/sharding::shards_take_the_steps_of_one_process",
            "engine/distributed/sharding::each_process_holds_its_part_and_saves_whole_tensors_amid_an_evaluation_too",
        ),
        "a model that is too large for one GPU, on GPUs",
    ),
    Row(
        "G9",
        "another number of processes after a resume",
        "the run goes on with each sample once an epoch",
        ("engine/distributed/processes::a_run_goes_on_with_another_number_of_processes",),
    ),
    Row(
        "G10",
        "a dead process ends all",
        "all processes stop within 60 s with the first one's traceback; torchrun may start them again",
        (
            "faults/launched::a_killed_process_ends_the_other_within_a_minute_and_both_are_told_of",
            "cli/many_processes::torchrun_starts_a_killed_run_again_and_it_ends_with_the_bits_of_an_unbroken_one",
        ),
    ),
    Row(
        "J1",
        "a documented checkpoint",
        "safetensors that any reader of them opens, and JSON with a version; `sightline show` tells what is in one",
        (
            "engine/checkpoint/checkpoint::the_file_is_what_the_safetensors_library_reads_and_its_data_is_aligned",
            "engine/checkpoint/checkpoint::the_documented_shell_command_checks_the_state_file",
            "engine/checkpoint/hostile_files::a_checkpoint_of_a_newer_version_asks_for_an_update_and_is_not_passed_over",
            "cli/show::a_run_shows_its_newest_checkpoint",
            "cli/show::its_json_has_every_tensor_with_its_shape",
            "cli/show::damage_is_told_file_by_file_with_exit_code_2",
        ),
    ),
    Row(
        "J2",
        "the schedule after a resume",
        "values are a function of the position, and rows after a resume have those of an unbroken run",
        (
            "engine/schedule::the_values_of_a_step_do_not_depend_on_what_was_asked_before",
            "engine/session::a_crashed_and_resumed_run_ends_with_the_bits_of_an_unbroken_one",
        ),
    ),
    Row(
        "J3",
        "the optimizer after a resume",
        "its state has the same bits",
        ("engine/optim::a_run_cut_in_two_ends_with_the_bits_of_an_unbroken_one",),
    ),
    Row(
        "J4",
        "random numbers after a resume",
        "they are functions of seed, step and sample, so the next ones are those of an unbroken run",
        (
            "engine/seed::dropout_after_reseeding_does_not_depend_on_history",
            "data/draws::the_same_names_give_the_same_numbers",
        ),
    ),
    Row(
        "J5",
        "going on at the end of an epoch",
        "a longer run from the end of a shorter one; a stopped run has the bits of an unbroken one",
        (
            "api/python_face::a_longer_run_goes_on_from_the_end_of_the_shorter_one",
            "faults/stop::a_real_run_that_is_stopped_again_and_again_at_any_time_ends_with_the_same_bits",
        ),
    ),
    Row(
        "J6",
        "going on in the middle of an epoch",
        "20 kills at every kind of moment cost not one bit",
        (
            "faults/kill::20_kills_cost_not_one_bit",
            "faults/kill_lidar::6_kills_cost_not_one_bit",
            "data/loader::jumping_into_the_middle_touches_no_other_sample",
        ),
    ),
    Row(
        "J7",
        "the newest whole checkpoint is found",
        "a damaged one is named and passed over; several too",
        (
            "faults/damage::a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_with_the_same_bits",
            "faults/checkpoint_faults::a_flipped_bit_in_any_byte_is_found_and_the_older_checkpoint_is_used",
        ),
    ),
    Row(
        "J8",
        "writing is atomic",
        "a kill at every operation and a full disk leave whole checkpoints; space is looked at first",
        (
            "faults/checkpoint_faults::a_kill_at_every_single_operation_of_a_save_leaves_whole_checkpoints",
            "faults/full_disk::a_disk_that_fills_up_ends_the_run_with_a_message_and_room_lets_it_go_on",
            "faults/checkpoint_faults::too_little_space_is_seen_before_anything_is_written",
        ),
    ),
    Row(
        "J9",
        "no file runs code",
        "a pickle in any place is refused with exit code 2 and not opened",
        (
            "faults/hostile::a_pickle_in_place_of_a_run_or_of_weights_is_refused_and_not_opened",
            "faults/hostile::a_pickle_with_the_right_hash_in_a_checkpoint_is_not_opened",
        ),
    ),
    Row(
        "J10",
        "rules for what stays",
        "each rule keeps what it says; the disk they take is never more than was estimated",
        (
            "engine/checkpoint/retention::each_rule_keeps_what_it_says",
            "engine/checkpoint/retention::the_estimate_of_disk_use_is_never_exceeded",
        ),
    ),
    Row(
        "J11",
        "checkpoints by the clock and on request",
        "due by epochs, steps, minutes and `touch RUN/save`, which is seen within half a second, in an evaluation too",
        (
            "engine/checkpoint/save_schedule::checkpoints_are_due_by_epochs_steps_minutes_and_on_request",
            "faults/interruptions::a_checkpoint_on_request_amid_an_evaluation_is_that_of_the_step_with_its_live_weights",
        ),
    ),
    Row(
        "J12",
        "saving in the background",
        "the trainer waits for a copy into reused memory alone; see `python -m benchmarks checkpoint-steps`",
        (
            "engine/checkpoint/checkpoint::the_snapshot_is_of_the_moment_of_the_call",
            "engine/checkpoint/checkpoint::the_buffers_are_reused_and_remade_when_shapes_change",
        ),
    ),
    Row(
        "J13",
        "a small file for release",
        "the size of the weights; predictions and figures of the run, bit for bit; halves are near; damage is found",
        (
            "api/releasing::predictions_have_the_bits_of_those_of_the_run",
            "api/releasing::figures_are_those_of_the_run",
            "api/releasing::its_size_is_that_of_the_weights",
            "api/releasing::a_half_is_near_and_keeps_running_statistics_whole",
            "api/releasing::nothing_of_the_machine_is_in_it",
            "api/releasing::a_strangers_header_sets_nothing_but_the_model",
            "engine/checkpoint/release::a_flipped_bit_in_any_byte_is_found",
        ),
    ),
    Row("J14", "checkpoints mirrored elsewhere", "later"),
    Row("J15", "checkpoints of other systems", "each tiny sample imports with all tensors mapped, or with a list"),
    Row(
        "J16",
        "checkpoints of other PyTorch versions",
        "a run that the oldest supported PyTorch began goes on here as it did there; its weights load bit for bit",
        (
            "engine/checkpoint/old_torch::a_run_that_the_oldest_version_began_goes_on_as_it_did_there",
            "engine/checkpoint/old_torch::weights_of_the_oldest_version_are_evaluated_and_started_from",
            "engine/checkpoint/old_torch::a_released_file_of_the_oldest_version_holds_the_average_bit_for_bit",
        ),
    ),
    Row(
        "K1",
        "stopping at an epoch",
        "`stop_at_epoch` ends with exit code 3 once that epoch is evaluated, and the run goes on beyond it",
        ("faults/interruptions::a_run_stops_once_an_epoch_is_evaluated_and_goes_on_beyond_it_with_the_key_in_place",),
    ),
    Row(
        "K2",
        "signals",
        "SIGTERM and Ctrl-C at any time, evaluation included: exit code 3, and after a resume the same bits",
        (
            "faults/stop::a_real_run_that_is_stopped_again_and_again_at_any_time_ends_with_the_same_bits",
            "faults/stop::a_signal_in_any_batch_of_an_evaluation_cuts_it_short_and_the_resumed_run_repeats_it",
            "cli/stop::a_stopped_run_says_how_to_go_on_and_does",
            "faults/interruptions::the_signals_of_schedulers_and_of_a_closed_terminal_save_that_very_step",
        ),
    ),
    Row(
        "K3",
        "a kill costs a bounded amount of work",
        "never more than one interval between checkpoints, which may be minutes",
        ("faults/checkpoint_faults::random_kills_never_cost_more_than_one_interval",),
    ),
    Row(
        "K4",
        "a crash leaves a report",
        "a file with configuration, samples of the step and stacks of all processes; the error's last line names it",
        (
            "engine/run_folder/crash_report::a_failed_step_is_told_with_its_samples_their_names_and_the_rows_before",
            "engine/run_folder/crash_report::what_several_processes_wrote_is_put_together_whatever_else_lies_there",
            "cli/callbacks::a_failure_ends_the_run_with_exit_code_1_and_it_can_be_continued",
        ),
    ),
    Row(
        "K5",
        "no process is left behind",
        "worker processes end with the trainer, however it ends; nothing stays in shared memory",
        ("data/loader::ctrl_c_and_sigkill_end_all_processes", "faults/leaks::nothing_is_left_behind"),
    ),
)


def node(test: str) -> str:
    """What pytest calls a test: ``tests/engine/test_optim.py::test_a_step_by_hand``."""
    file, name = test.split("::")
    folder, _, stem = file.rpartition("/")
    return f"tests/{folder + '/' if folder else ''}test_{stem}.py::test_{name}"


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """Tests of a file; none where there is no such file."""
    path = ROOT / file
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    return frozenset(found.name for found in ast.walk(tree) if isinstance(found, ast.FunctionDef))


def is_built(row: Row) -> bool:
    """Whether all tests of a row exist."""
    places = [node(test).split("::") for test in row.tests]
    return bool(places) and all(name in names_in(file) for file, name in places)


class Outcomes:
    """A plugin that notes how every test went."""

    def __init__(self) -> None:
        self.by_node: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A failure in set-up or tear-down is one of the test."""
        if report.when == "call" or report.outcome != "passed":
            self.by_node.setdefault(report.nodeid.partition("[")[0], set()).add(report.outcome)


def run(rows: Iterable[Row], options: Sequence[str] = ()) -> dict[str, str]:
    """Result of every row by its id."""
    rows = list(rows)
    nodes = sorted({node(test) for row in rows if is_built(row) for test in row.tests})
    outcomes = Outcomes()
    if nodes:
        pytest.main(["-m", "not gpu", "--rootdir", str(ROOT), *options, *nodes], plugins=[outcomes])
    return {row.id: result(row, outcomes.by_node) for row in rows}


def result(row: Row, outcomes: dict[str, set[str]]) -> str:
    """How a row came out, from how its tests did."""
    if not is_built(row):
        return OPEN
    found = [outcomes.get(node(test), {"failed"}) for test in row.tests]
    if any("failed" in outcome for outcome in found):
        return FAIL
    if any("passed" not in outcome for outcome in found):
        return SKIPPED
    return PART if row.missing else PASS


def table(rows: Iterable[Row], results: dict[str, str]) -> str:
    """Rows of one part as Markdown."""
    lines = ["| Row | What | Check | Result |", "| --- | --- | --- | --- |"]
    for row in rows:
        said = f"{PART}; missing: {row.missing}" if results[row.id] == PART else results[row.id]
        lines.append(f"| {row.id} | {row.name} | {row.check} | {said} |")
    return "\n".join(lines)


def page(results: dict[str, str]) -> str:
    """All of docs/features.md."""
    counts = {kind: list(results.values()).count(kind) for kind in (PASS, PART, FAIL, SKIPPED, OPEN)}
    parts = [
        "# What it does, row by row",
        "<!-- written by `python -m tests.features`; the rows and their tests stand in tests/features.py -->",
        "Every row names what a training system should do and the check that shows it. In a clone of the repository\n"
        "this runs them all and writes this page; a letter or a row after it runs a part:",
        "```sh\npython -m tests.features\n```",
        "`pass, in part` means that the tests pass and that the row asks for more than they show; the rest is named.\n"
        "`not built` means that no test shows it. Figures of speed are in [Performance](performance.md).",
        "Results: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) + ".",
    ]
    for letter, title in PARTS.items():
        parts += [f"## {letter}. {title}", table((row for row in ROWS if row.id[0] == letter), results)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.features", description=__doc__)
    parser.add_argument("rows", nargs="*", help="rows (A4) or parts (K); all of them, and the page, without")
    parser.add_argument("-n", default="0", help="processes to run the tests in")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if not options.rows or row.id in options.rows or row.id[0] in options.rows]
    if not rows:
        parser.error(f"no row {' '.join(options.rows)}; there are {', '.join(PARTS)} with numbers behind them")
    results = run(rows, ["-n", options.n] if options.n != "0" else [])
    for row in rows:
        print(f"{row.id:<4} {results[row.id]:<14} {row.name}")
    if not options.rows:
        PAGE.write_text(page(results))
    return 1 if FAIL in results.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
