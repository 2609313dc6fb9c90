"""The names of the mistakes; what each one means for a client is told where its kill is written down."""

from typing import Final

__all__ = ["EXTENDED_ONLY", "FAULTS", "STRICT_ONLY"]

STRICT_ONLY: Final = frozenset(
    """
    address_upper_case answer_extra_field answers_with_wrong_action connection_extra_field connection_second
    connection_without_limit data_as_string details_unasked envelope_extra_key error_extra_field error_own_code
    error_unknown_level error_without_level first_value_missing market_cap_null no_updates price_as_number
    price_with_exponent price_with_trailing_zeros sends_binary sequence_as_string sequence_per_type sequence_repeats
    sequence_shared sequence_skips_on_unsubscribe sequence_starts_at_zero status_ready subscribe_not_answered
    timestamp_decreases timestamp_in_seconds timestamp_missing timestamp_with_fraction type_as_number
    unsubscribe_not_answered update_extra_field updates_twice uuid_is_counter volume_as_numbers volume_without_m5
    """.split()  # noqa: SIM905 - a line for each would be a page
)
"""Made only on connections without capabilities, so that each is found by the cases that are about it."""

EXTENDED_ONLY: Final = frozenset(
    """
    ack_answered ack_ignored ack_out_of_range_silent active_counts_request attempt_ignored bars_too_often
    batch_entries_lack_volume batch_grant_ignored capabilities_unlisted caps_change_ignored channels_count_once
    channels_taken_in_part close_keeps_session deflate_besides_zstd echo_missing error_details_missing
    figures_missing gap_missing heartbeat_never heartbeat_numbered known_ignored known_means_none
    known_of_any_stream known_of_any_type lost_position_loses_subscriptions numbers_while_detached reason_own
    rejected_missing replay_backwards_served replay_changes_timestamps replay_ignored replay_of_future_ignored
    request_id_missing resume_failure_untold resume_forgets_subscriptions resume_never resume_off_by_one
    resume_renumbers resume_repeats_last secret_reused session_kept_3_s takeover_leaves_old_open trades_with_holes
    unsubscribe_means_token version_falls zstd_first_is_delta zstd_sends_text zstd_small_binary zstd_without_size
    """.split()  # noqa: SIM905
)
"""Made only on connections with capabilities: cases that use none cannot see them."""

FAULTS: Final = (
    STRICT_ONLY
    | EXTENDED_ONLY
    | frozenset(
        """
    ack_out_of_range_is_error acks_uncharged action_not_told_apart address_as_number announces_101
    answer_counts_tokens answer_status_ok answer_without_status answers_in_reverse answers_late answers_one_by_one
    any_position_resumes bad_message_clears_subscriptions bar_as_number bar_version_stays batch_limit_ignored
    batch_of_hundred_only batch_repeats_first batch_too_big batches_unasked binary_accepted binary_ignored
    binary_told_1008 bomb_inflated burst_of_five busy_without_retry_after capacity_closes_silently capacity_ignored
    capacity_told_1001 capacity_told_as_connected capacity_told_by_http channels_ignored client_takeover
    close_never_cut close_not_answered closed_bar_missing closes_on_bad_json compresses_everything
    connection_missing connection_twice connection_without_id dead_told_1001 deaf_after_bad_json deflate_declined
    drops_after_10_s drops_after_60_s early_bytes_taken echo_as_string empty_success_sent end_status_unknown
    end_without_connection end_without_words end_words_reversed envelope_demanded error_code_as_number error_ends
    error_lists_all_tokens error_without_message errors_before_success every_means_latest every_without_resume
    fatal_closes_1000 fatal_does_not_end fatal_told_as_error fifth_refusal_ends float_numbers_refused
    flood_without_end fragments_refused fragments_unbounded gap_from_one gap_not_told gap_numbered gap_refused
    gap_told_as_error gap_told_each_time gap_without_repair gathered_before_replay grants_unasked heartbeat_unasked
    heartbeat_without_number invalid_json_told_as_message invalid_message_told_as_json last_words_unnumbered
    leaks_a_place limit_as_string limit_counts_repetitions limit_ignored limit_leaks_on_unsubscribe limit_off_by_one
    long_answers_whole long_messages_cost_one lost_position_sends_no_values market_cap_as_number megabyte_refused
    never_compresses never_drops_dead no_control_rate no_ping no_rate_limit no_tokens_pass numbers_lost_in_stall
    one_update_after_unsubscribe only_pong_is_life opening_never_times_out oversize_ignored oversize_served
    oversize_told_1002 partial_failure_rejects_all path_any path_prefix_matches ping_needs_grant ping_not_answered
    pings_count_as_messages pings_every_20_s price_negative price_not_decimal rate_drops_silently
    rate_told_each_time reason_missing refusal_without_error refusals_never_forgotten refusals_without_end
    refused_echo_null refused_echo_whole refused_not_listed refused_without_bound refuses_unknown_fields
    repetitions_listed_twice replay_changes_values replay_from_missing replay_off_by_one replay_sends_twice
    replays_at_once resumed_connection_numbered resumed_said_false ring_of_sixteen secret_missing side_lower_case
    silence_on_bad_json silence_on_invalid_message silence_on_unknown_type slow_never_closed slow_not_warned
    slow_told_1008 source_time_in_seconds stale_told_each_tick starts_with_subscriptions subprotocol_not_echoed
    takeover_told_1000 timestamp_as_string timestamp_in_microseconds trade_time_in_ms two_messages_in_one
    unfinished_kept unknown_caps_refuse_all unknown_query_refused unknown_token_accepted
    unknown_type_told_as_message unsubscribe_of_unheld_fails update_without_market_cap updates_after_unsubscribe
    updates_every_12_s updates_every_second updates_for_all updates_stop_after_two uuid_reused uuid_upper_case
    values_frozen values_lost_in_stall version_missing versions_sent_late volume_one_number volume_unset_as_dash
    warning_ends window_ignored with_byte_order_mark wrong_types_pass zstd_cut_before_data
    zstd_delta_without_dictionary
        """.split()  # noqa: SIM905
    )
)
"""Every mistake that the server can make."""
