"""Every number of the Token Data WebSocket v1.0 specification, and of our Interpretations of it, once.

A name ends in its unit: ``_MS`` milliseconds, ``_S`` seconds, ``_BYTES``, ``_FRAMES``; without one it is a
count. "Spec" cites a section of the v1.0 specification, "Interpretation" a number in ``schemas/README.md``.
"""

from typing import Final

# --- Spec, Connection Requirements -------------------------------------------------------------------------
MAX_CONNECTIONS: Final = 1000
CONNECTION_TIMEOUT_MS: Final = 5_000
HEARTBEAT_INTERVAL_MS: Final = 15_000
MAX_MESSAGE_BYTES: Final = 1_048_576  # "1MB", inflated, either direction

# --- Spec, Connection Messages and Performance -------------------------------------------------------------
MAX_SUBSCRIPTIONS: Final = 100
UPDATE_INTERVAL_MS: Final = 5_000
MIN_UPDATE_INTERVAL_MS: Final = 50
COMPRESSION_THRESHOLD_BYTES: Final = 1_024  # strictly larger messages are compressed
MAX_BATCH: Final = 1_000  # tokens in one message, either direction
MAX_BATCH_BYTES: Final = 524_288

# --- Spec, Connection Management (the client) --------------------------------------------------------------
BACKOFF_BASE_MS: Final = 1_000
BACKOFF_CAP_MS: Final = 30_000

# --- Interpretations: time ---------------------------------------------------------------------------------
IDLE_TIMEOUT_MS: Final = HEARTBEAT_INTERVAL_MS + CONNECTION_TIMEOUT_MS  # without one inbound byte
CLOSE_TIMEOUT_MS: Final = CONNECTION_TIMEOUT_MS  # how long a close handshake may take before the abort
WRITE_STALL_WARNING_MS: Final = 5_000
WRITE_STALL_CLOSE_MS: Final = 30_000
STALE_FACTOR: Final = 3  # a token is stale when older than this many of its source's cadences …
STALE_MIN_MS: Final = 15_000  # … and at least this old

# --- Interpretations: what one peer may do -----------------------------------------------------------------
INBOUND_RATE_PER_S: Final = 20
INBOUND_BURST: Final = 40
INBOUND_SHARE_BYTES: Final = 16_384  # a message counts once, and once more for each full share, inflated
MESSAGE_TIMEOUT_MS: Final = 20_000  # from the first byte of a message to its last
MAX_UNFINISHED_BYTES: Final = 67_108_864  # of all clients' unfinished messages together
MAX_MESSAGE_FRAGMENTS: Final = 4_096
INBOUND_CONTROL_RATE_PER_S: Final = 200  # pings, pongs and acks have their own ceiling
RATE_NOTICE_INTERVAL_MS: Final = 1_000
RATE_SUSTAINED_MS: Final = 10_000  # floods this long end in RATE_LIMITED, 4005
PROTOCOL_ERRORS_MAX: Final = 10
PROTOCOL_ERRORS_WINDOW_MS: Final = 60_000
MAX_TOKEN_NAME_CHARS: Final = 256
MAX_REQUEST_ID_CHARS: Final = 128
MAX_ECHO_CHARS: Final = 128
MAX_KNOWN: Final = 10_000  # entries of `known`, or of `after`, in one subscribe
MAX_CHANNELS: Final = 32  # names in one subscription message
MAX_CHANNEL_CHARS: Final = 64
MAX_REJECTED_SOCKETS: Final = 50  # sockets told MAX_CONNECTIONS at once; beyond them HTTP 503
BUSY_RETRY_AFTER_MS: Final = 5_000  # what a full instance asks for
MAX_SEQUENCE: Final = 2**53 - 1

# --- Interpretations: what is held for one peer ------------------------------------------------------------
MAX_OUTBOX_FRAMES: Final = 256
MAX_OUTBOX_BYTES: Final = 262_144
WRITE_HIGH_WATER_BYTES: Final = 65_536
WRITE_LOW_WATER_BYTES: Final = 16_384
NOTSENT_LOWAT_BYTES: Final = 16_384
MAX_REMEMBERED_BODIES: Final = 64  # compressed bodies, in case somebody else wants the same
MAX_REMEMBERED_BODY_BYTES: Final = 16_384
MAX_WINDOWS: Final = 64  # shared compression windows of an instance, of 80 to 360 KiB each …
MAX_COHORT_WINDOWS: Final = 4  # … and of the clients with one subscription set

# --- Interpretations: resume -------------------------------------------------------------------------------
RESUME_WINDOW_MS: Final = 120_000
RESUME_MAX_FRAMES: Final = 1_024
RESUME_MAX_BYTES: Final = 1_048_576
RESUME_INSTANCE_BYTES: Final = 268_435_456
RESUME_RACE_MS: Final = CONNECTION_TIMEOUT_MS  # while the winner is younger, the lower attempt loses

# --- Interpretations: channels -----------------------------------------------------------------------------
STATE_GAP_MS: Final = 250  # between two messages of one open bar, or one book
MIN_PUSH_GAP_MS: Final = 50
MAX_PUSH_GAP_MS: Final = 60_000
MAX_SET_TOPICS: Final = 100  # tokens of a set that is subscribed with other channels than `token`
MAX_SET_TOKENS: Final = 1_000  # that the name of a set may ask for
DEFAULT_SET_TOKENS: Final = 50

# --- Interpretations: events and single versions -----------------------------------------------------------
MAX_STREAM_LOG_BYTES: Final = 16_777_216  # of events between two flushes, and of single changes, all tokens together
STREAM_FLUSH_MS: Final = 50  # how long an event waits, or a change for clients that get every version
