"""The names of the mistakes; what each one means for a client is told where its kill is written down."""

from typing import Final

__all__ = ["EXTENDED_ONLY", "FAULTS", "STRICT_ONLY"]

STRICT_ONLY: Final = frozenset(
    """
    action_not_told_apart address_upper_case again_refused again_sends_no_value answer_extra_field
    answers_in_reverse answers_late bad_utf8_dropped batch_limit_ignored
    batch_of_hundred_only batch_refusal_lists_all binary_accepted bomb_inflated burst_of_five client_takeover
    close_never_cut close_not_answered closes_on_bad_json compressed_requests_refused compresses_everything
    compresses_unoffered connection_extra_field connection_second dead_told_1001 deep_json_breaks drops_after_10_s
    end_without_words end_words_reversed envelope_demanded envelope_extra_key error_extra_field error_own_code
    error_text_of_a_megabyte error_without_level errors_before_success extension_unoffered falling_numbers_end
    fatal_does_not_end fatal_lives fatal_told_as_error first_of_repeated_key_counts first_value_missing
    float_numbers_refused flood_without_end fragments_refused fragments_unbounded gap_not_told greets_with_hello
    heartbeat_unasked huge_numbers_break limit_counts_repetitions limit_ignored limit_leaks_on_unsubscribe
    long_messages_cost_one long_requests_refused megabyte_refused never_compresses never_drops_dead no_ping
    no_rate_limit no_tokens_pass no_updates numbers_lost_in_stall only_first_token_taken only_pong_is_life
    oversize_served partial_failure_rejects_all pong_missing pong_without_payload price_as_number
    price_with_trailing_zeros rate_told_each_time refusals_without_end refused_echo_null refused_message_applied
    refuses_unknown_fields repetitions_listed_twice rest_dropped_after_refusal sends_binary
    sequence_as_string sequence_per_type sequence_shared sequence_skips_on_unsubscribe sequence_starts_at_zero
    silence_on_bad_json silence_on_invalid_message silence_on_unknown_type slow_never_closed slow_not_warned
    starts_with_subscriptions subscribe_not_answered timestamp_decreases timestamp_in_seconds timestamp_missing
    unfinished_kept unheld_not_answered unknown_token_accepted unsubscribe_not_answered unsubscribe_of_unheld_fails
    unsubscribed_is_the_action update_extra_field updates_after_unsubscribe updates_for_all updates_to_everyone
    uuid_reused uuid_upper_case values_frozen volume_as_numbers warning_ends window_ignored with_byte_order_mark
    wrong_types_pass
    """.split()  # noqa: SIM905 - a line for each would be pages
)
"""Made only on connections without capabilities, so that each is found by the cases that are about it."""

EXTENDED_ONLY: Final = frozenset(
    """
    ack_answered ack_ignored ack_of_any_type ack_out_of_range_silent active_counts_request active_counts_tokens
    after_ignored after_of_any_stream after_of_any_type after_off_by_one after_unordered answer_without_channels
    attempt_counts_for_ever attempt_ignored bar_never_closed bars_too_often batch_entries_lack_volume
    batch_grant_ignored batch_repeats_first book_crossed book_stale_missing book_too_deep book_too_often
    book_unsorted book_version_stands capabilities_list_more caps_change_ignored channels_taken_in_part
    close_keeps_session closed_false closed_missing closing_keeps_version deflate_besides_zstd echo_missing
    error_details_missing figures_missing gap_missing heartbeat_extra_field heartbeat_never heartbeat_numbered
    known_ignored known_means_none known_of_any_stream known_of_any_type large_set_traded late_bar_keeps_version
    lost_position_loses_subscriptions no_bar_on_subscribing numbers_while_detached push_in_batches push_once
    push_replaces_token push_too_often push_with_the_interval reason_own rejected_missing replay_backwards_served
    replay_changes_timestamps replay_ignored replay_leaves_out_answers replay_of_future_ignored request_id_missing
    resume_failure_untold resume_never resume_off_by_one resume_renumbers secret_short set_change_untold
    set_counts_members set_gone_goes_on set_members_untold set_of_symbols set_size_missing set_takes_its_own
    set_values_first side_lower_case socket_caps_kept source_time_in_seconds takeover_leaves_old_open
    trades_conflated_for_slow trades_lost_while_away trades_with_holes unknown_channel_left_out
    unknown_channel_other_code unknown_channel_passes unknown_set_accepted unsubscribe_means_token version_falls
    violation_keeps_session zstd_cut_elsewhere zstd_first_continues zstd_flag_always_begins zstd_huge_window
    zstd_packed_length zstd_sends_text zstd_small_binary zstd_socket_continues zstd_unflushed
    """.split()  # noqa: SIM905
)
"""Made only on connections with capabilities: cases that use none cannot see them."""

FAULTS: Final = (
    STRICT_ONLY
    | EXTENDED_ONLY
    | frozenset(
        """
        capacity_ignored compression_demanded early_bytes_taken grants_unasked last_words_unnumbered leaks_a_place
        long_answers_whole opening_never_times_out path_any ping_needs_grant pings_count_as_messages subprotocol_any
        subprotocol_not_echoed unknown_query_refused updates_too_often vanished_wear_out violation_ends_others
        """.split()  # noqa: SIM905
    )
)
"""Every mistake that the server can make."""
