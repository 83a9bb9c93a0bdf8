"""What only `make test-all` runs, so that `make test` stays short: one home for the choice.

Each line names tests (file and function, `*` for any text) and the cases of them that `make test`
keeps: their first so many, those whose name holds a word of a tuple, or those that hold none of a
set. Where it keeps none, the comment says what shorter tests hold of the same property. A line that
fits no test is an error, see `marked`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

KEPT: dict[str, int | tuple[str, ...] | frozenset[str]] = {
    # Every case is the same property of another input.
    # A benchmark of hours that goes on; its rows are tested in the same file.
    "benchmarks/test_roofline.py::test_the_grid_goes_on_where_it_was_left": 0,
    "benchmarks/test_full_data.py::test_a_small_run_says_what_it_took_and_deletes_all": 0,
    "calibration/test_labels_of_bytes.py::*_under_a_published_tokenizer": ("mistral", "smollm2"),
    # Amazon's files go the whole way in road/test_small_road.py.
    "cli/test_cli.py::test_every_experiment_runs": ("mini_full_estimator", "near_budget"),
    # No shorter test previews a pair with a template; one is calibrated and trained in that file.
    "cli/test_chat_pairs.py::test_a_preview_shows_and_reads_*": 0,
    "cli/test_cli.py::test_a_multiple_of_lambda_star_*": 1,
    "cli/test_families.py::test_a_family_is_calibrated_*": ("gpt2",),
    "cli/test_families.py::test_a_pair_of_different_outputs_*": 1,
    "cli/test_own_lines.py::test_a_module_started_with_m_is_the_command": 1,
    # The verb that loads most libraries.
    "cli/test_own_lines.py::test_a_verb_prints_its_own_lines_*": ("[train]",),
    "cli/test_own_lines.py::test_who_reads_no_further_*": 1,
    # A study, a pilot and a grid, which road/test_small_road.py, prereg/test_predict.py and
    # cli/test_cli.py run as well.
    "docs/test_docs.py::test_a_documented_command_runs": frozenset(
        {
            "study protocol=estimator",
            "predict model.student=STUDENT",
            "train -m lam.value",
            # Once more under other names.
            "calibrate model.student=STUDENT",
            "preview model.student=STUDENT",
        }
    ),
    "engine/test_engine.py::test_a_rank_that_fails_fails_the_run": (
        "raise-auto",
        "kill-auto",
        "raise-torchrun",
    ),
    "engine/test_engine.py::test_an_interrupt_ends_the_ranks": ("auto",),
    "engine/test_engine_equality.py::test_two_ranks_train_as_one_process_does": ("saving",),
    "grading/test_grade_verb.py::test_a_bad_answer_is_counted_*": 3,
    "grading/test_grade_verb.py::test_a_fault_that_passes_*": 2,
    "grading/test_grade_verb.py::test_half_a_body_*": 3,
    "grading/test_interrupted_grading.py::test_a_call_that_is_hit_*": 1,
    "models/test_token_bytes.py::test_published_tokenizers_equal_the_engine": ("smollm2",),
    "models/test_token_bytes.py::test_published_tokenizers_join_*": 1,
    "planning/test_memory.py::test_an_update_takes_what_is_planned": (
        "defaults",
        "[engine.gradient_checkpointing=true]",
        "[lora=adapter]",
        "[optim.estimator=full]",
    ),
    "planning/test_memory.py::test_an_update_of_a_family_*": ("gpt2",),
    "planning/test_memory.py::test_an_update_of_the_full_estimator_in_chunks_*": (
        "[qwen3]",
        "topk",
    ),
    "preview/test_settled.py::test_it_is_where_the_flow_comes_to_rest": ("[0-", "[1-"),
    "preview/test_settled_families.py::test_every_family_settles_*": ("qwen3", "gemma2", "gpt2"),
    "records/test_tracking.py::test_online_without_a_usable_key_is_one_line": 1,
    "records/test_tracking.py::test_the_service_is_silent_without_a_home": 1,
    "report/test_comparison.py::test_another_mass_of_*": 2,
    "report/test_comparison.py::test_a_parse_rate_far_below_*": 1,
    "report/test_comparison.py::test_an_onset_may_move_*": 2,
    "report/test_comparison.py::test_one_wrong_number_of_a_run_is_outside": 2,
    # The slowest figure; no shorter test has its numbers.
    "report/test_figures_committed.py::test_the_committed_results_give_*": frozenset(
        {"[near_budget]"}
    ),
    # A quarter of drawing is the numbers, which stay for all figures.
    "report/test_figures_committed.py::test_every_figure_can_be_drawn": (
        "fine_grid",
        "preview_locked",
    ),
    "report/test_report.py::test_the_pages_of_the_other_locks_*": ("[near]", "preview_orders"),
    "report/test_report.py::test_verdicts_that_do_not_fit_*": 3,
    "rollout/test_scores_of_families.py::test_every_backend_*": ("qwen3", "gemma2", "gpt2"),
    "rollout/test_scores_of_families.py::test_what_a_generation_config_*": 2,
    "rollout/test_backends.py::test_every_argument_means_the_same": 2,
    # Options of other groups are composed in experiments or chosen in tests.
    "settings/test_settings.py::test_every_option_composes_and_loads": (
        "experiment-",
        "lambda-",
        "rollout-",
        "tracking-",
    ),
    "settings/test_settings.py::test_cells_are_those_that_hydra_would_compose_*": 2,
    "study/test_pool.py::test_a_study_that_is_asked_to_go_with_all_*": 0,
    "theory/test_brackets.py::test_the_interval_of_brackets_covers": (
        "0.0-3-None",
        "0.5-3-None",
        "0.5-8-None",
    ),
    "theory/test_simulate.py::test_mask_is_stable_below_the_cliff": 1,
    "training/test_adapter_students.py::test_whole_weights_and_an_adapter_*": 1,
    "training/test_loop.py::test_a_run_of_models_that_forbid_*": 2,
    # A third run; without a clip also the tabular dynamics of theory/test_simulate.py have none.
    "training/test_loop.py::test_without_a_clip_the_loop_has_no_cliff_*": 0,
    "training/test_loop.py::test_the_micro_batch_changes_nothing": 1,
    "training/test_resume.py::test_a_kill_during_a_checkpoint_*": 1,
    "training/test_resume.py::test_one_flipped_bit_falls_back_*": 2,
    "verification/test_sealed_code.py::test_a_file_that_is_removed_*": ("format 2",),
    "verification/test_sealed_code.py::test_todays_code_*": ("format 2",),
    "verification/test_sealed_code.py::test_an_edited_manifest_of_an_old_lock_*": 1,
    # Locks of the first format; what they share with the second one is seen there.
    "verification/test_verify.py::*": ("format 2", "exit_code_zero", "edited_record", "dirty"),
    # A bit of each of thirty files; edits of single ones are the other tests of that file.
    "verification/test_sealed_code.py::test_one_flipped_bit_*": 0,
    "verification/test_run_sources.py::test_a_log_that_differs_*": 1,
    # A study killed again and again; test_pool.py kills its workers, test_resume.py its runs.
    "e2e/test_study.py::test_a_killed_study_*": 0,
    # Twenty kills; test_resume.py has one of each kind beside it.
    "training/test_resume.py::test_twenty_kills_*": 0,
    # Ranks, stages and adapters together; each alone is in test_engine_equality.py and
    # test_adapter_students.py.
    "training/test_adapter_students.py::test_ranks_train_an_adapter_*": 0,
    "training/test_resume_ranks.py::test_a_run_goes_on_under_other_ranks_and_stages": 0,
    "engine/test_engine_equality.py::test_four_ranks_*": 0,
    # No shorter test has the full estimator on ranks.
    "engine/test_engine_equality.py::test_two_ranks_take_the_full_estimator_*": 0,
    # Runs under either launcher; failures under them stay, and forked ranks that train.
    "engine/test_launch_command.py::test_ranks_of_deepspeed_train_*": 0,
    "engine/test_engine_equality.py::test_two_ranks_of_torchrun_*": 0,
    # What two ranks hold, beside what one holds.
    "planning/test_memory.py::test_two_ranks_hold_what_is_planned": 0,
    # bfloat16 again, which many CPUs only emulate.
    "cli/test_families.py::test_a_pair_in_bfloat16_stays_in_it": 0,
    "engine/test_engine_equality.py::test_bfloat16_trains_on_float32_copies": 0,
    "training/test_resume.py::test_a_stop_changes_nothing_in_bfloat16": 0,
    # Compiled and plain decoding agree answer by answer in rollout/test_compiled.py.
    "study/test_compiled_study.py::test_both_paths_give_the_same_cells": 0,
    # A whole grid under a stand-in for Slurm; its parts are the other tests of that file.
    "study/test_slurm.py::test_a_grid_runs_under_slurm_*": 0,
    # Processes of joblib, which import all libraries: no shorter test starts them; what is done
    # when they give up is tested in the same file.
    "cli/test_cli.py::test_cells_side_by_side": 0,
    # The same kill without an adapter is in the same file, the adapter's own exactness in
    # test_adapter_students.py.
    "training/test_resume.py::test_a_kill_changes_nothing_for_an_adapter": 0,
    # Keys in files and on the screen, from whole runs; what cuts them out of one text is tested in
    # the same file.
    "test_security.py::test_no_key_of_the_user_*": 0,
    "test_security.py::test_the_mirror_takes_no_code_*": 0,
    "test_security.py::test_a_secret_that_ranks_print_*": 0,
    # Builds of pages and wheel. test_packaging.py looks at what the wheel would hold; no other test
    # builds the pages.
    "docs/test_docs.py::test_the_site_builds_with_pages_and_reference": 0,
    "test_wheel.py::*": 0,
    # Runs in fresh processes. No shorter test holds these in full: mirrors of several cells, a
    # record cut while a command wrote it, what a run of one process imports.
    "cli/test_cli.py::test_mirrors_of_a_grid_are_runs_of_their_own": 0,
    "cli/test_own_lines.py::test_a_cut_record_is_named_*": 0,
    "cli/test_own_lines.py::test_a_run_of_one_process_never_imports_deepspeed": 0,
    "cli/test_own_lines.py::test_a_run_without_a_home_prints_nothing_*": 0,
    # The committed results are written over in a clone; that they are left alone stays.
    "cli/test_committed.py::test_with_the_word_*": 0,
    # Coverage of an interval by simulation; its bounds are tested beside it.
    "calibration/test_class_masses.py::test_the_interval_covers_*": 0,
    # Kills of a study's parent; a worker's death and a passed-on signal stay.
    "study/test_pool.py::test_an_interrupted_study_ends_*": 0,
    "study/test_pool.py::test_workers_do_not_outlive_*": 0,
    # 200,000 words; shorter prompts are refused by the test beside it.
    "models/test_lengths.py::test_a_prompt_of_200000_words_*": 0,
}


def marked(items: Sequence[pytest.Item], tests: Path) -> None:
    """Mark as `whole` the tests that `make test` leaves out.

    Raises:
        pytest.UsageError: all tests were collected and a line of KEPT fits none of them.
    """
    fitting: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        name = f"{item.path.relative_to(tests).as_posix()}::{item.name.split('[', 1)[0]}"
        for pattern in KEPT:
            if fnmatchcase(name, pattern):
                fitting[pattern].append(item)
                break
    for pattern, found in fitting.items():
        kept = KEPT[pattern]
        for place, item in enumerate(found):
            if isinstance(kept, int):
                stays = place < kept
            else:
                held = any(word in item.name for word in kept)
                # A test without cases is no repetition of another.
                stays = "[" not in item.name or held == isinstance(kept, tuple)
            if not stays:
                item.add_marker(pytest.mark.whole)
    files = {item.path for item in items}
    if any(tests / pattern.split("::", 1)[0] not in files for pattern in KEPT):
        return
    if stale := [pattern for pattern in KEPT if pattern not in fitting]:
        raise pytest.UsageError(f"tests/helpers/whole_suite.py: {stale[0]} fits no test")
