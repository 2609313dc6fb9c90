"""The specification's numbers as the suite measures them, and the suite's own bounds.

A name ends in its unit. The suite has its own copy on purpose: a wrong number in the server's would go unseen
otherwise.
"""

from typing import Final

# --- the specification -------------------------------------------------------------------------------------
PATH: Final = "/api/v1/ws/token-data"
MAX_CONNECTIONS: Final = 1000
CONNECTION_TIMEOUT_S: Final = 5.0
HEARTBEAT_S: Final = 15.0
MAX_MESSAGE_BYTES: Final = 1_048_576
MAX_SUBSCRIPTIONS: Final = 100
BACKOFF_BASE_S: Final = 1.0
BACKOFF_CAP_S: Final = 30.0
UPDATE_INTERVAL_S: Final = 5.0
COMPRESSION_THRESHOLD_BYTES: Final = 1_024
MAX_BATCH: Final = 1_000
LATENCY_S: Final = 0.1

# --- Interpretations ---------------------------------------------------------------------------------------
IDLE_TIMEOUT_S: Final = 20.0  # I-41
INBOUND_BURST: Final = 40  # I-36
INBOUND_RATE_PER_S: Final = 20  # I-36
PROTOCOL_ERRORS_MAX: Final = 10  # I-25
STABLE_S: Final = 30.0  # I-45

# --- how the suite waits -----------------------------------------------------------------------------------
REPLY_S: Final = 5.0  # for an answer that the specification gives no time for
SLACK_S: Final = 1.0  # added to a time of the specification before it counts as missed
QUIET_S: Final = 0.5  # without a further message, an answer is complete

# --- what the suite keeps of a peer ------------------------------------------------------------------------
MAX_FRAME_BYTES: Final = 16 * MAX_MESSAGE_BYTES  # a longer frame breaks the connection
MAX_INFLATED_BYTES: Final = 4 * MAX_MESSAGE_BYTES
MAX_MESSAGES: Final = 100_000  # of one connection
MAX_HELD_BYTES: Final = 128 * 1_048_576  # of one connection's messages
MAX_RUN_BYTES: Final = 256 * 1_048_576  # of all connections' messages together
MAX_KEPT_BYTES: Final = 2 * 1_048_576  # of one connection's messages, once its case is over
MAX_FRAGMENTS: Final = 100_000  # of one message
MAX_LOG_ENTRIES: Final = 300  # of one connection; the first half and the last half
MAX_LOG_CHARS: Final = 600  # of one entry
