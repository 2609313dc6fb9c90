"""The names of the mistakes; what each one means for a client is told where its kill is written down."""

from typing import Final

__all__ = ["EXTENDED_ONLY", "FAULTS", "STRICT_ONLY"]

STRICT_ONLY: Final = frozenset(
    """
    ack_out_of_range_is_error acks_uncharged action_not_told_apart address_as_number address_upper_case
    again_refused again_sends_no_value announces_101 answer_counts_tokens answer_extra_field answer_status_ok
    answer_without_status answers_in_reverse answers_late answers_one_by_one any_position_resumes
    bad_message_clears_subscriptions bad_utf8_dropped bar_version_stays batch_limit_ignored batch_of_hundred_only
    batch_refusal_lists_all batch_repeats_first batch_too_big batches_unasked binary_accepted binary_ignored
    binary_told_1008 bomb_inflated burst_of_five busy_without_retry_after capacity_closes_silently
    capacity_told_as_connected capacity_told_by_http channels_ignored client_takeover close_never_cut
    close_not_answered closed_bar_missing closes_on_bad_json compressed_requests_refused compresses_everything
    compresses_unoffered connection_extra_field connection_missing connection_second connection_twice
    connection_without_id connection_without_limit data_as_string dead_told_1001 deaf_after_bad_json
    deep_json_breaks deflate_declined details_unasked drops_after_10_s drops_after_60_s echo_as_string
    empty_success_sent end_status_unknown end_without_connection end_without_words end_words_reversed
    envelope_demanded envelope_extra_key error_code_as_number error_ends error_extra_field error_lists_all_tokens
    error_own_code error_text_of_a_megabyte error_unknown_level error_without_level error_without_message
    errors_before_success every_means_latest every_without_resume falling_numbers_end fatal_closes_1000
    fatal_does_not_end fatal_lives fatal_told_as_error fifth_refusal_ends first_of_repeated_key_counts
    first_value_missing float_numbers_refused flood_without_end fragments_refused fragments_unbounded gap_from_one
    gap_not_told gap_numbered gap_refused gap_told_as_error gap_told_each_time gap_without_repair
    gathered_before_replay greets_with_hello heartbeat_unasked heartbeat_without_number huge_numbers_break
    invalid_json_told_as_message invalid_message_told_as_json limit_as_string limit_counts_repetitions limit_ignored
    limit_leaks_on_unsubscribe limit_off_by_one long_messages_cost_one long_requests_refused
    lost_position_sends_no_values market_cap_as_number market_cap_null megabyte_refused never_compresses
    never_drops_dead no_control_rate no_ping no_rate_limit no_tokens_pass no_updates numbers_lost_in_stall
    one_update_after_unsubscribe only_first_token_taken only_pong_is_life oversize_ignored oversize_served
    oversize_told_1002 partial_failure_rejects_all path_prefix_matches ping_not_answered pings_every_20_s
    pong_missing price_as_number price_negative price_not_decimal price_with_exponent price_with_trailing_zeros
    rate_drops_silently rate_told_each_time reason_missing refusal_without_error refusals_never_forgotten
    refusals_without_end refused_echo_null refused_echo_whole refused_message_applied refused_not_listed
    refuses_unknown_fields repetitions_listed_twice replay_changes_values replay_from_missing replay_off_by_one
    replay_sends_twice replays_at_once resumed_connection_numbered resumed_said_false ring_of_sixteen secret_missing
    sends_binary sequence_as_string sequence_per_type sequence_repeats sequence_shared sequence_skips_on_unsubscribe
    sequence_starts_at_zero silence_on_bad_json silence_on_invalid_message silence_on_unknown_type slow_never_closed
    slow_not_warned slow_told_1008 stale_told_each_tick starts_with_subscriptions status_ready
    subscribe_not_answered takeover_told_1000 timestamp_as_string timestamp_decreases timestamp_in_microseconds
    timestamp_in_seconds timestamp_missing timestamp_with_fraction two_messages_in_one type_as_number
    unfinished_kept unknown_caps_refuse_all unknown_token_accepted unknown_type_told_as_message
    unsubscribe_not_answered unsubscribe_of_unheld_fails unsubscribe_of_unknown_fails unsubscribed_is_the_action
    update_extra_field update_without_market_cap updates_after_unsubscribe updates_for_all updates_stop_after_two
    updates_to_everyone updates_twice uuid_is_counter uuid_reused uuid_upper_case values_frozen values_lost_in_stall
    version_missing versions_sent_late volume_as_numbers volume_one_number volume_unset_as_dash volume_without_m5
    warning_ends window_ignored with_byte_order_mark wrong_types_pass zstd_cut_before_data
    zstd_delta_without_dictionary
    """.split()  # noqa: SIM905 - a line for each would be pages
)
"""Made only on connections without capabilities, so that each is found by the cases that are about it."""

EXTENDED_ONLY: Final = frozenset(
    """
    ack_answered ack_ignored ack_of_any_type ack_out_of_range_silent active_counts_request attempt_counts_for_ever
    attempt_ignored bar_as_number bars_too_often batch_entries_lack_volume batch_grant_ignored
    capabilities_list_more caps_change_ignored channels_count_once channels_taken_in_part close_keeps_session
    deflate_besides_zstd echo_missing echo_of_any_type error_details_missing figures_missing gap_missing
    greeting_extra_field heartbeat_extra_field heartbeat_never heartbeat_numbered known_ignored known_means_none
    known_of_any_stream known_of_any_type lost_position_loses_subscriptions numbers_while_detached reason_own
    rejected_missing replay_backwards_served replay_changes_timestamps replay_ignored replay_leaves_out_answers
    replay_of_future_ignored request_id_missing resume_failure_untold resume_forgets_subscriptions resume_never
    resume_off_by_one resume_renumbers resume_repeats_last secret_short session_kept_3_s side_lower_case
    socket_caps_kept source_time_in_seconds takeover_leaves_old_open trade_time_in_ms trades_with_holes
    unknown_channel_passes unsubscribe_means_token version_falls violation_keeps_session zstd_first_is_delta
    zstd_sends_text zstd_small_binary zstd_without_size
    """.split()  # noqa: SIM905
)
"""Made only on connections with capabilities: cases that use none cannot see them."""

FAULTS: Final = (
    STRICT_ONLY
    | EXTENDED_ONLY
    | frozenset(
        """
        capacity_ignored capacity_told_1001 compression_demanded early_bytes_taken grants_unasked
        last_words_unnumbered leaks_a_place long_answers_whole opening_never_times_out path_any ping_needs_grant
        pings_count_as_messages refused_without_bound subprotocol_any subprotocol_not_echoed unknown_query_refused
        updates_every_12_s updates_every_second
        """.split()  # noqa: SIM905
    )
)
"""Every mistake that the server can make."""
