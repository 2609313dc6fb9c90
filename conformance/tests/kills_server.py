"""What each mistake of a server must be found by: the exact set of cases that fail, thought out and written by hand.

A case is listed where the clause that it is about is broken, or where it cannot get at what it is about because of
the mistake; the reason says why. Nothing writes this file: where a run differs, find out whether the case, the fault
or the expectation is wrong.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["NEVER_JUDGED", "SERVER_KILLS", "Kill"]

NEVER_JUDGED: Final = {"S-EP-10": "needs TLS, which virtual time has not"}
"""Cases that the matrix cannot hold, and why."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Which cases fail, and why these."""

    cases: frozenset[str]
    reason: str
    alone: bool = False
    """Whether the mistake reaches other connections, so that only these cases are run with it: which others it hits
    depends on what happens to run beside them."""


def _kill(cases: str, reason: str, *, alone: bool = False) -> Kill:
    return Kill(frozenset(cases.split()), reason, alone)


SERVER_KILLS: Final[dict[str, Kill]] = {
    # --- the envelope ------------------------------------------------------------------------------------------
    "sequence_per_type": _kill(
        "S-MB-03 S-MB-18 S-DC-01 S-DC-05",
        "Counted per type the numbers fall from one message to the next, for slow readers too.",
    ),
    "sequence_starts_at_zero": _kill("S-MB-02 S-DC-01", "The first message has the number 0."),
    "sequence_skips_on_unsubscribe": _kill("S-MB-03 S-DC-01", "The message after an unsubscribe leaves one out."),
    "sequence_shared": _kill(
        "S-MB-02 S-MB-03 S-MB-10 S-MB-18 S-DC-01 S-DC-05",
        "Another connection's messages use up numbers: no connection begins at 1, and all have holes.",
    ),
    "sequence_as_string": _kill(
        "S-MB-01 S-MB-02 S-MB-03 S-DC-01 S-DC-05",
        "A string is no number, so no number is right.",
    ),
    "timestamp_in_seconds": _kill("S-MB-04", "1970 is not the present."),
    "timestamp_decreases": _kill("S-MB-05", "An answer is older than the greeting before it."),
    "envelope_extra_key": _kill("S-MB-07", "Five keys."),
    "timestamp_missing": _kill("S-MB-07", "Three keys; what a missing key would have held is not judged."),
    "greets_with_hello": _kill(
        "S-EP-01 S-MB-08 S-MC-01 S-MC-02 S-ME-05 S-ME-07 S-CR-08 S-MC-05",
        "A type of its own for the greeting and the last words, so nobody seems admitted.",
    ),
    "with_byte_order_mark": _kill("S-MB-09", "A byte order mark stands before the object."),
    "sends_binary": _kill("S-MB-06 S-PF-01", "Every message is binary, and so none is compressed text."),
    "heartbeat_unasked": _kill("S-MB-08", "A type that nobody asked for."),
    "envelope_demanded": _kill(
        "S-MB-11 S-XH-05",
        "Requests without sequence and timestamp are refused, a ping among them.",
    ),
    "fragments_refused": _kill("S-MB-12 S-EH-28 S-EH-29", "The first fragment ends the connection."),
    "binary_accepted": _kill("S-MB-13 S-CR-10", "A binary request is served, and is no way to be closed."),
    "refuses_unknown_fields": _kill("S-MB-14", "An unknown key of the envelope is refused."),
    "float_numbers_refused": _kill("S-MB-15", "1.0 is refused as a sequence."),
    "first_of_repeated_key_counts": _kill("S-MB-16", "Of a repeated key the first value counts."),
    "compressed_requests_refused": _kill(
        "S-MB-17 S-CR-06",
        "What the client compresses is refused, a bomb for the wrong reason.",
    ),
    # --- connection --------------------------------------------------------------------------------------------
    "connection_second": _kill(
        "S-MC-01 S-MC-03 S-MC-04 S-MS-18 S-CR-08",
        "A warning comes first: no id in the first message, and an error message before the first answer.",
    ),
    "connection_extra_field": _kill("S-MC-02", "A fourth field."),
    "uuid_reused": _kill("S-MC-03", "Every connection has the same id."),
    "uuid_upper_case": _kill("S-MC-04", "A UUID in upper case."),
    "limit_leaks_on_unsubscribe": _kill("S-MC-06 S-MS-17", "An unsubscribe makes no room."),
    # --- updates -----------------------------------------------------------------------------------------------
    "price_as_number": _kill("S-MU-04", "A price that JSON readers round."),
    "price_with_trailing_zeros": _kill("S-MU-07", "Superfluous zeros."),
    "volume_as_numbers": _kill("S-MU-05", "Volumes are strings."),
    "update_extra_field": _kill("S-MU-06", "A fifth field."),
    "address_upper_case": _kill("S-MU-11 S-EH-16", "Values cannot be matched with the token that was asked for."),
    "first_value_missing": _kill(
        "S-MU-01 S-MU-11 S-MS-23 S-CM-11 S-CM-12 S-DC-05 S-MU-12 S-MB-18",
        "Nothing follows a subscribe until the next tick, so that nothing fills the way to a slow reader either.",
    ),
    "no_updates": _kill("S-MU-02 S-MU-12 S-MU-14 S-PF-07", "Only the first value comes."),
    "updates_for_all": _kill("S-MU-08 S-MU-03", "Every subscriber gets a token that it has not."),
    "updates_to_everyone": _kill(
        "S-MU-03 S-MU-08 S-MU-09 S-MU-10 S-MS-20 S-MS-21 S-EH-16",
        "Who subscribes, subscribes for all, for ever.",
    ),
    "updates_after_unsubscribe": _kill("S-MU-09 S-MU-10", "An unsubscribe stops nothing."),
    "updates_too_often": _kill(
        "S-MU-13 S-MU-14 S-PF-07 S-XD-07",
        "Many times as often as said, so that values repeat, and ticks cannot be told from answers to what is known.",
    ),
    "values_frozen": _kill("S-MU-13", "Values that do not change are sent."),
    # --- subscriptions -----------------------------------------------------------------------------------------
    "unsubscribed_is_the_action": _kill("S-MS-02 S-MS-08 S-MS-22", "unsubscribed is no action."),
    "subscribe_not_answered": _kill(
        "S-CM-04 S-CM-05 S-CM-10 S-CM-11 S-CM-12 S-CR-01 S-CR-02 S-CR-03 S-CR-04 S-CR-05 S-CR-06 S-DC-01 S-DC-02 "
        "S-DC-03 S-DC-05 S-EH-01 S-EH-02 S-EH-03 S-EH-04 S-EH-05 S-EH-06 S-EH-07 S-EH-08 S-EH-09 S-EH-10 S-EH-11 "
        "S-EH-12 S-EH-13 S-EH-14 S-EH-15 S-EH-16 S-EH-17 S-EH-18 S-EH-19 S-EH-20 S-EH-21 S-EH-22 S-EH-23 S-EH-24 "
        "S-EH-25 S-EH-26 S-EH-29 S-EP-03 S-EP-06 S-EP-07 S-MB-10 S-MB-11 S-MB-12 S-MB-14 S-MB-15 S-MB-16 S-MB-17 "
        "S-MB-18 S-MC-06 S-ME-03 S-ME-06 S-MS-01 S-MS-03 S-MS-04 S-MS-05 S-MS-06 S-MS-07 S-MS-10 S-MS-11 S-MS-12 "
        "S-MS-14 S-MS-15 S-MS-16 S-MS-17 S-MS-18 S-MS-19 S-MS-20 S-MS-21 S-MS-23 S-MU-01 S-MU-03 S-MU-11 S-PF-06 "
        "S-PF-08 S-MU-13",
        "Every case that needs a subscribe to be answered, be it only as proof that the connection works or goes on; "
        "a silent server must pass none of them.",
    ),
    "unsubscribe_not_answered": _kill(
        "S-MS-02 S-MS-08 S-MS-09 S-DC-02 S-MU-09 S-EH-23 S-EH-25 S-MB-12 S-MB-17 S-MU-10 S-MU-12",
        "Every case that waits for the answer to an unsubscribe: as what it is about, as one request of many, or "
        "before it watches that no more values come.",
    ),
    "unheld_not_answered": _kill(
        "S-DC-02 S-MS-08 S-MS-09",
        "An unsubscribe of what is not held is passed over in silence.",
    ),
    "answer_extra_field": _kill("S-MS-22", "A fourth field."),
    "partial_failure_rejects_all": _kill(
        "S-MS-11 S-MS-12 S-MS-16 S-MS-18 S-EH-17 S-EH-18",
        "One bad name, or one too many, spoils the others.",
    ),
    "repetitions_listed_twice": _kill("S-MS-07", "A token named twice is answered twice."),
    "unknown_token_accepted": _kill("S-MS-10 S-MS-11", "A token that does not exist is accepted."),
    "answers_in_reverse": _kill("S-MS-19", "Not the order of the request."),
    "limit_ignored": _kill("S-MS-15 S-MS-16 S-MS-17", "101 tokens are held, and nothing is ever full."),
    "limit_counts_repetitions": _kill("S-MS-06", "A second subscribe takes a second place."),
    "batch_refusal_lists_all": _kill("S-PF-09 S-MS-21", "A refusal that repeats all of the 1001 names."),
    "batch_limit_ignored": _kill("S-MS-21", "1001 tokens are served."),
    "batch_of_hundred_only": _kill("S-PF-08 S-MS-16", "A message with more names than 100 is refused as a whole."),
    "no_tokens_pass": _kill("S-MS-13", "An empty list is no error."),
    "only_first_token_taken": _kill(
        "S-MC-06 S-MS-03 S-MS-04 S-MS-06 S-MS-07 S-MS-12 S-MS-14 S-MS-15 S-MS-16 S-MS-17 S-MS-18 S-MS-19 "
        "S-MU-01 S-PF-01 S-PF-03 S-PF-08 S-CM-11 S-CM-12 S-DC-05 S-MB-18",
        "The rest of the list is passed over: every case that subscribes to several tokens in one message, to fill a "
        "limit, an answer of more than 1 KB or a slow reader's way, or to have a good one beside a bad one.",
    ),
    "again_refused": _kill(
        "S-MS-05 S-MS-06 S-MS-07 S-MS-18 S-MS-23 S-DC-03",
        "Who holds a token cannot ask for it again.",
    ),
    "again_sends_no_value": _kill("S-MS-23", "A value cannot be repaired by asking again."),
    "refused_echo_null": _kill("S-MS-14", "A refused number comes back as null."),
    "errors_before_success": _kill("S-MS-18", "The error messages come first."),
    "unsubscribe_of_unheld_fails": _kill("S-MS-08 S-MS-09", "What is not held cannot be unsubscribed, known or not."),
    "starts_with_subscriptions": _kill(
        "S-MS-20 S-MU-08 S-MC-06 S-MS-04 S-MS-06 S-MS-15 S-MS-16 S-MS-17 S-MS-18 S-MS-21 S-MU-11 S-MU-03 "
        "S-MU-09 S-MU-10",
        "A place is taken and a value sent that nobody asked for.",
    ),
    # --- errors ------------------------------------------------------------------------------------------------
    "error_without_level": _kill(
        "S-ME-01 S-ME-04 S-ME-05 S-ME-06 S-DC-03 S-EH-27 S-CM-11 S-ME-07",
        "The level is missing: neither fatal nor warning can be told.",
    ),
    "error_extra_field": _kill("S-ME-01", "A fourth field."),
    "error_text_of_a_megabyte": _kill("S-CR-07", "An error message of more than 1 MB."),
    "error_own_code": _kill(
        "S-ME-02 S-DC-03 S-EH-01 S-EH-02 S-EH-03 S-EH-04 S-EH-05 S-EH-06 S-EH-07 S-EH-08 S-EH-09 S-EH-10 S-EH-11 "
        "S-EH-12 S-EH-13 S-EH-24 S-EH-26 S-EH-27 S-MB-13 S-MS-12 S-MS-13 S-MS-16 S-MS-21 S-CM-11 S-CR-04 S-CR-08",
        "Codes of its own: every case that expects one code of the catalogue, none that only expects an error.",
    ),
    "fatal_does_not_end": _kill("S-ME-03 S-ME-07 S-EH-24", "The connection outlives a fatal error."),
    "warning_ends": _kill(
        "S-ME-06 S-DC-03 S-DC-05 S-CM-11 S-EH-24 S-EH-27", "The connection ends with the first warning."),
    "end_without_words": _kill(
        "S-ME-04 S-ME-05 S-MB-13 S-EH-27 S-CR-04 S-CR-08 S-MC-05 S-ME-07", "A fatal end without words."),
    "end_words_reversed": _kill("S-ME-05 S-MC-05 S-CR-08", "connection before the error."),
    "fatal_lives": _kill(
        "S-ME-04 S-ME-05 S-ME-07 S-MC-05 S-MB-13 S-EH-19 S-EH-27 S-EH-28 S-EH-29 S-CR-04 S-CR-05 S-CR-06 S-CR-10 "
        "S-CR-08",
        "Behind the last words the connection goes on: every case that provokes a fatal error and waits for the "
        "close code, or for the end.",
    ),
    "fatal_told_as_error": _kill(
        "S-ME-04 S-ME-05 S-EH-27 S-ME-07", "The level error ends the connection."),
    # --- bad input ---------------------------------------------------------------------------------------------
    "silence_on_bad_json": _kill(
        "S-EH-01 S-EH-02 S-EH-03 S-EH-04 S-EH-14 S-EH-19 S-EH-22 S-ME-03",
        "What is not JSON is passed over, and never counted: every case that sends such text and waits for an error, "
        "for the end after ten, or for a fatal one.",
    ),
    "closes_on_bad_json": _kill(
        "S-EH-01 S-EH-02 S-EH-03 S-EH-04 S-EH-14 S-EH-15 S-EH-19 S-EH-22 S-ME-03 S-DC-01",
        "What is not JSON ends the connection: every case that sends such text and then goes on, numbers too large "
        "for the parser included.",
    ),
    "silence_on_invalid_message": _kill(
        "S-EH-05 S-EH-06 S-EH-09 S-EH-11 S-EH-12 S-EH-13 S-MS-13",
        "Wrong fields are passed over: every case that waits for INVALID_MESSAGE.",
    ),
    "silence_on_unknown_type": _kill("S-EH-07 S-EH-08", "Unknown types are passed over."),
    "wrong_types_pass": _kill("S-EH-12 S-EH-13", "A string serves as a list, a string as a number."),
    "action_not_told_apart": _kill("S-EH-10", "INVALID_MESSAGE instead of INVALID_ACTION."),
    "refused_message_applied": _kill("S-EH-16 S-MS-21 S-MU-08", "A refused message subscribes all the same."),
    "refusals_without_end": _kill("S-EH-19", "Eleven refusals, and it lives."),
    "burst_of_five": _kill(
        "S-EH-23 S-EH-01 S-EH-05 S-EH-06 S-EH-09 S-EH-11 S-EH-12 S-EH-19 S-EH-20 S-EH-25 S-EH-26",
        "The sixth message at once is dropped: every case that sends more than five without a pause, as each of "
        "these does by the number of its variants.",
    ),
    "no_rate_limit": _kill("S-EH-24 S-EH-26 S-EH-27", "Every flood is served."),
    "rate_told_each_time": _kill("S-EH-24", "Each dropped message earns an error of its own."),
    "pings_count_as_messages": _kill("S-EH-25 S-XA-05 S-XH-06", "Pings use up the rate of messages."),
    "long_messages_cost_one": _kill("S-EH-26", "Size is a way round the rate."),
    "flood_without_end": _kill("S-EH-27", "A flood may go on for ever."),
    "unfinished_kept": _kill("S-EH-28", "An unfinished message is waited for without end."),
    "fragments_unbounded": _kill("S-EH-29", "Any number of fragments."),
    "gap_not_told": _kill("S-DC-03 S-ME-06", "A hole in the client's numbers goes unsaid."),
    "falling_numbers_end": _kill(
        "S-DC-04", "A number below the one before ends the connection."),
    "rest_dropped_after_refusal": _kill("S-EH-22", "What was read together with a bad message is lost with it."),
    "violation_ends_others": _kill("S-EH-20", "One broken framing ends every connection.", alone=True),
    "bad_utf8_dropped": _kill("S-EH-21", "Text that is not UTF-8 is passed over."),
    "deep_json_breaks": _kill("S-EH-14", "A recursion without bound."),
    "huge_numbers_break": _kill("S-EH-15", "A number of 5000 digits is too much."),
    # --- heartbeat and ends ------------------------------------------------------------------------------------
    "no_ping": _kill("S-CM-01 S-CM-02 S-CM-04", "Without pings an idle client seems dead."),
    "pong_without_payload": _kill(
        "S-CM-03 S-EH-25 S-PF-06",
        "Pongs are empty, so that none can be told to answer a ping.",
    ),
    "vanished_wear_out": _kill(
        "S-CM-10",
        "Ten clients that broke off leave nobody to be greeted.",
        alone=True,
    ),
    "pong_missing": _kill(
        "S-CM-03 S-EH-25 S-PF-06",
        "Pings are not answered, so the way to the server cannot be measured either.",
    ),
    "never_drops_dead": _kill("S-CM-06 S-CM-07 S-CM-08", "The dead stay."),
    "drops_after_10_s": _kill(
        "S-CM-01 S-CM-02 S-CM-04 S-CM-07 S-MU-14 S-PF-07 S-MS-21",
        "Sooner than the first ping, so that whoever only listens is cut off.",
    ),
    "only_pong_is_life": _kill("S-CM-05", "A client that talks but answers no pings is dropped."),
    "dead_told_1001": _kill("S-CM-08", "Another close code."),
    "close_not_answered": _kill("S-CM-09", "A close frame is not answered."),
    "close_never_cut": _kill("S-CR-10", "A half-closed socket is kept for ever."),
    "opening_never_times_out": _kill("S-CR-09", "A half-sent request is waited for without end."),
    "slow_not_warned": _kill("S-CM-11", "The stall goes unsaid."),
    "slow_never_closed": _kill("S-CM-12", "Answers that nobody reads pile up."),
    "numbers_lost_in_stall": _kill("S-MB-03 S-MB-18 S-DC-05", "What was left out had numbers."),
    # --- transport ---------------------------------------------------------------------------------------------
    "never_compresses": _kill("S-PF-01", "Long messages go out as they are."),
    "compresses_everything": _kill("S-PF-02", "Short messages are compressed."),
    "client_takeover": _kill("S-PF-05", "The client's window is to be kept."),
    "window_ignored": _kill("S-PF-04", "A small window that was asked for is not kept."),
    "compresses_unoffered": _kill(
        "S-PF-03 S-CM-11 S-CM-12 S-DC-05 S-MB-18", "Reserved bits for who offered nothing."),
    "compression_demanded": _kill(
        "S-EP-06 S-PF-03 S-CM-11 S-CM-12 S-DC-05 S-CR-08 S-XR-19 S-MB-18 S-XC-12",
        "Who offers no compression is turned away.",
    ),
    "extension_unoffered": _kill(
        "S-PF-03 S-EP-06 S-CM-11 S-CM-12 S-CR-08 S-DC-05 S-MB-18",
        "permessage-deflate is agreed on with who did not offer it, the slow readers and the crowd among them.",
    ),
    "answers_late": _kill("S-PF-06", "Half a second for an answer."),
    "path_any": _kill("S-EP-02", "Every path is the endpoint."),
    "subprotocol_not_echoed": _kill("S-EP-04", "The subprotocol is not named."),
    "subprotocol_any": _kill("S-EP-05", "Whatever is offered is named."),
    "unknown_query_refused": _kill("S-EP-03 S-XR-22", "An unknown parameter is refused."),
    "grants_unasked": _kill(
        "S-EP-03 S-EP-07 S-EP-08 S-MC-02 S-DC-05 S-MB-03 S-MB-08 S-XB-06",
        "heartbeat is in force unasked, listed in a fourth field, and sent under numbers that are taken.",
    ),
    "capabilities_list_more": _kill("S-EP-08 S-XB-06 S-XR-23 S-XD-12", "The list names what nobody asked for."),
    "early_bytes_taken": _kill("S-EP-09", "Frames behind the upgrade request are served."),
    # --- limits ------------------------------------------------------------------------------------------------
    "megabyte_refused": _kill("S-CR-02", "A MB of 1,000,000 bytes."),
    "long_requests_refused": _kill("S-CR-01 S-CR-02 S-EH-26", "64 KiB are taken for the limit."),
    "oversize_served": _kill("S-CR-03 S-CR-04 S-CR-06", "Messages of up to 16 MB are served, inflated ones too."),
    "bomb_inflated": _kill("S-CR-06", "A small message that inflates to more than 1 MB is served."),
    "capacity_ignored": _kill("S-CR-08", "One more than the maximum is served."),
    "leaks_a_place": _kill("S-CR-08", "Every other place is never given back."),
    "long_answers_whole": _kill("S-XD-11", "An answer of more than 1 MB."),
    # --- batch, resume -----------------------------------------------------------------------------------------
    "batch_grant_ignored": _kill(
        "S-XB-01 S-XB-02 S-XB-03 S-XB-04 S-XB-05 S-XB-07 S-XC-15",
        "Granted, but single updates come.",
    ),
    "batch_repeats_first": _kill("S-XB-02", "A batch has two entries for one token."),
    "batch_entries_lack_volume": _kill("S-XB-07", "The entries are shorter than single updates."),
    "secret_short": _kill("S-XR-01 S-XR-23 S-XD-12", "48 bits can be guessed."),
    "resume_never": _kill(
        "S-XR-02 S-XR-03 S-XR-04 S-XR-05 S-XR-06 S-XR-07 S-XR-08 S-XR-11 S-XR-12 S-XR-13 S-XR-14 S-XR-17 S-XR-18 "
        "S-XR-19 S-XR-21 S-XR-22 S-XZ-05 S-XC-11",
        "Every session is unknown: nothing resumes, nothing is lost by its position, nobody is superseded.",
    ),
    "resume_off_by_one": _kill("S-XR-03 S-XR-21 S-XZ-05", "The first missed message is left out, be it an answer."),
    "resume_renumbers": _kill(
        "S-XR-03 S-XR-04 S-XR-19 S-XR-31 S-XR-33 S-XR-34",
        "Replayed messages have new numbers, so none is found under its own.",
    ),
    "replay_changes_timestamps": _kill("S-XR-04 S-XR-31", "Replayed messages have the time of the replay."),
    "numbers_while_detached": _kill("S-XR-05", "Values are numbered that nobody could receive."),
    "reason_own": _kill(
        "S-XR-06 S-XR-07 S-XR-09 S-XR-11 S-XR-15 S-XR-16 S-XR-23",
        "A reason that nobody knows, the schema included.",
    ),
    "lost_position_loses_subscriptions": _kill("S-XR-08", "After a lost position nothing is subscribed."),
    "resume_failure_untold": _kill("S-XR-10", "No RESUME_FAILED."),
    "caps_change_ignored": _kill("S-XR-11", "The session goes on with other capabilities than it has."),
    "takeover_leaves_old_open": _kill("S-XR-12 S-XR-14", "Two sockets for one session."),
    "attempt_ignored": _kill("S-XR-13", "The older attempt takes over."),
    "attempt_counts_for_ever": _kill("S-XR-14", "A client that starts counting anew never gets its session back."),
    "close_keeps_session": _kill("S-XR-15", "The session outlives its normal end."),
    "violation_keeps_session": _kill("S-XR-16", "The session outlives a broken framing."),
    "socket_caps_kept": _kill("S-XR-19", "Another heartbeat makes another session."),
    "replay_leaves_out_answers": _kill(
        "S-XR-03 S-XR-21 S-XR-31 S-XR-33 S-XR-34 S-XZ-05",
        "Only values are sent again.",
    ),
    "last_words_unnumbered": _kill("S-XR-20 S-MB-03", "The last words repeat a number."),
    "replay_ignored": _kill("S-XR-31 S-XR-33 S-XR-34 S-XR-35 S-XA-02", "A replay is never answered."),
    "replay_backwards_served": _kill("S-XR-32", "from above to is no error."),
    "gap_missing": _kill(
        "S-XR-34 S-XA-02",
        "What is not held any more, acknowledged or evicted, is left out in silence.",
    ),
    "replay_of_future_ignored": _kill("S-XR-35", "Numbers never sent can be asked for."),
    # --- ack, heartbeat, details -------------------------------------------------------------------------------
    "ack_answered": _kill("S-XA-01", "An ack has an answer."),
    "ack_ignored": _kill("S-XA-02 S-XR-07 S-XR-34", "What was acknowledged is replayed."),
    "ack_out_of_range_silent": _kill("S-XA-03", "An ack of the future goes unsaid."),
    "ack_of_any_type": _kill("S-XA-04", "An ack with a string is taken."),
    "echo_missing": _kill("S-XH-01 S-XH-02 S-XH-03 S-XH-06", "Answers to pings cannot be told apart."),
    "heartbeat_extra_field": _kill("S-XH-07", "A field that a heartbeat has not."),
    "heartbeat_numbered": _kill("S-XH-03", "A heartbeat uses up a number."),
    "heartbeat_never": _kill("S-XH-04", "An idle page hears nothing."),
    "ping_needs_grant": _kill("S-XH-05", "A ping is an unknown type without a grant."),
    "figures_missing": _kill(
        "S-XD-01 S-XD-07 S-XR-01 S-XR-08 S-XC-09",
        "The greeting lacks subscriptions, stream and figures.",
    ),
    "version_falls": _kill("S-XD-02 S-XD-08 S-XC-14", "Versions fall, so that a known one seems newer."),
    "source_time_in_seconds": _kill("S-XD-02 S-XD-12", "1970 again."),
    "request_id_missing": _kill("S-XD-03", "Answers do not say what they answer."),
    "rejected_missing": _kill("S-XD-04 S-XD-11", "A refusal does not say why."),
    "active_counts_request": _kill("S-XD-05 S-XC-08", "active counts the request's tokens."),
    "error_details_missing": _kill("S-XD-03 S-XD-06 S-XD-11", "Errors have their three fields only."),
    "known_ignored": _kill("S-XD-07", "A known value is sent again."),
    "known_means_none": _kill("S-XD-08", "A newer value is kept back."),
    "known_of_any_stream": _kill("S-XD-09", "Versions of another stream count."),
    "known_of_any_type": _kill("S-XD-10", "A version may be a string."),
    # --- zstd, channels ----------------------------------------------------------------------------------------
    "deflate_besides_zstd": _kill("S-XZ-01", "Two compressions at once."),
    "zstd_small_binary": _kill(
        "S-EP-08 S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05",
        "Short messages are binary, so that not even the greeting can be read.",
    ),
    "zstd_packed_length": _kill(
        "S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05",
        "The length is that of the packed data, and no message decodes to it.",
    ),
    "zstd_cut_elsewhere": _kill(
        "S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05", "The colon behind data is in the body of every binary message."
    ),
    "zstd_huge_window": _kill("S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05", "16 MiB are asked of every reader."),
    "zstd_unflushed": _kill(
        "S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05", "The first binary message decodes to nothing before the third."
    ),
    "zstd_first_continues": _kill(
        "S-XZ-01 S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05", "The first binary message continues what did not begin."
    ),
    "zstd_flag_always_begins": _kill(
        "S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05",
        "What continues a frame is said to begin one: seen where there are two binary messages.",
    ),
    "zstd_socket_continues": _kill("S-XZ-05", "A resumed socket goes on with the stream of the one before it."),
    "zstd_sends_text": _kill("S-XZ-02 S-XZ-03 S-XZ-04 S-XZ-05", "Long messages are text."),
    "unsubscribe_means_token": _kill("S-XC-01", "An unsubscribe leaves the other channels."),
    "trades_with_holes": _kill("S-XC-02 S-XC-09 S-XC-11 S-XC-12", "Versions of trades are left out, for everybody."),
    "side_lower_case": _kill("S-XC-02 S-XC-06 S-XC-09 S-XC-11 S-XC-12", "buy is no side, whenever a trade comes."),
    "bars_too_often": _kill("S-XC-03", "Bars every 50 ms."),
    "bar_never_closed": _kill("S-XC-03", "The next bar comes, and the last form of the one before it never did."),
    "closed_false": _kill("S-XC-03", "No bar is ever said to be closed."),
    "closed_missing": _kill("S-XC-03 S-XC-06", "A bar does not say whether it is closed."),
    "closing_keeps_version": _kill("S-XC-03", "The closed bar has the version of the open one."),
    "late_bar_keeps_version": _kill("S-XC-03", "A corrected bar has the version of the one it corrects."),
    "no_bar_on_subscribing": _kill("S-XC-13", "The open bar comes with the next trade only."),
    "unknown_channel_passes": _kill("S-XC-05 S-XC-07 S-XD-12", "A channel that does not exist is subscribed."),
    "unknown_channel_left_out": _kill("S-XC-07", "A token is taken with those of its channels that it has."),
    "unknown_channel_other_code": _kill("S-XC-07 S-XC-16", "The refusal blames the token."),
    "answer_without_channels": _kill("S-XC-08", "Answers do not say which channels they are about."),
    "active_counts_tokens": _kill("S-XC-08", "active counts tokens, not pairs."),
    "after_ignored": _kill("S-XC-09", "after brings nothing: skipped, since a server need not have the trades."),
    "after_off_by_one": _kill("S-XC-09", "The trade that the client holds comes again."),
    "after_unordered": _kill("S-XC-09", "The newest of the missed trades comes first."),
    "after_of_any_type": _kill("S-XC-09", "A number in after may be a string."),
    "after_of_any_stream": _kill("S-XC-10", "Numbers of another stream count."),
    "trades_lost_while_away": _kill("S-XC-11", "A session without a socket gets no trades."),
    "trades_conflated_for_slow": _kill("S-XC-12", "A slow reader gets the newest trade of each token only."),
    "push_once": _kill("S-XC-14 S-XC-15", "A value comes on subscribing, and no further one."),
    "push_too_often": _kill("S-XC-14", "Each change is sent, whatever gap was asked for."),
    "push_with_the_interval": _kill("S-XC-14", "A value comes every 5 s."),
    "push_in_batches": _kill("S-XC-15", "Pushed values come in a batch, as the others do."),
    "push_replaces_token": _kill("S-XC-15", "With a push the update interval brings nothing."),
    "book_too_deep": _kill("S-XC-16", "One level more than asked for."),
    "book_unsorted": _kill("S-XC-16", "The worst bid comes first."),
    "book_crossed": _kill("S-XC-16", "Bids and asks are exchanged, so that the bid is above the ask."),
    "book_version_stands": _kill("S-XC-16", "The book changes within its version."),
    "book_too_often": _kill("S-XC-16", "A book every 50 ms."),
    "book_stale_missing": _kill("S-XC-06", "A field less."),
    "set_members_untold": _kill("S-XC-17 S-XC-18", "Values come of tokens that no set message named."),
    "set_values_first": _kill("S-XC-17 S-XC-18", "The values come before the message that names the members."),
    "set_of_symbols": _kill("S-XC-17 S-XC-18", "set names no addresses."),
    "set_size_missing": _kill("S-XC-06 S-XC-17 S-XC-18", "set does not say how many there are."),
    "set_takes_its_own": _kill("S-XC-17", "With the set goes what was subscribed by its name."),
    "set_change_untold": _kill("S-XC-18", "Members come and go unsaid."),
    "set_gone_goes_on": _kill("S-XC-18", "A member that went is sent on."),
    "set_counts_members": _kill("S-XC-19", "A set of five takes five places."),
    "unknown_set_accepted": _kill("S-XC-19", "A set that does not exist looks like an empty one."),
    "large_set_traded": _kill("S-XC-19", "The trades of 300 tokens can be had with one name."),
    "channels_taken_in_part": _kill("S-XC-04", "A token is taken with some of its channels."),
}  # fmt: skip
"""Fault to kill."""
