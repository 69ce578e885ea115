"""The database's tables, one step a version. A released step is never changed; a new one is appended."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Decided batches, by height; public.
        "CREATE TABLE batch (height INTEGER PRIMARY KEY, hash BLOB NOT NULL, data BLOB NOT NULL)",
        # What a batch did with each ticket.
        """CREATE TABLE outcome (
            ticket_id BLOB PRIMARY KEY, height INTEGER NOT NULL, provider BLOB NOT NULL,
            tokens INTEGER NOT NULL, credited_wei TEXT NOT NULL, reason TEXT NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX outcome_height ON outcome (height)",
        # Cumulative credits as of a height, for proofs.
        """CREATE TABLE credit (
            height INTEGER NOT NULL, provider BLOB NOT NULL, cumulative_wei TEXT NOT NULL,
            PRIMARY KEY (height, provider)
        ) WITHOUT ROWID""",
        # The newest ledger state, so that a start needn't replay everything.
        "CREATE TABLE ledger (id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER NOT NULL, data BLOB NOT NULL)",
        # The book as last seen: records, bids, proofs.
        """CREATE TABLE market (
            kind TEXT NOT NULL, key BLOB NOT NULL, expires_ms INTEGER NOT NULL, data BLOB NOT NULL,
            PRIMARY KEY (kind, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX market_expiry ON market (expires_ms)",
        # A provider's sessions: the ticket it accepted, the highest voucher, the receipt.
        """CREATE TABLE delivery (
            ticket_id BLOB PRIMARY KEY, ticket BLOB NOT NULL, expires_ms INTEGER NOT NULL,
            tokens INTEGER NOT NULL DEFAULT 0, voucher BLOB, receipt BLOB, filed INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        "CREATE INDEX delivery_unfiled ON delivery (expires_ms) WHERE filed = 0",
        # A provider's claims on chain.
        """CREATE TABLE claim (
            height INTEGER PRIMARY KEY, cumulative_wei TEXT NOT NULL, amount_wei TEXT NOT NULL,
            tx_hash BLOB, gas INTEGER NOT NULL, status TEXT NOT NULL
        )""",
        # A user's sessions, newest last.
        """CREATE TABLE session (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, rfc_id BLOB NOT NULL UNIQUE, data TEXT NOT NULL
        )""",
        "CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        # What the desk did, in order: replayed after a crash.
        """CREATE TABLE journal (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, data BLOB NOT NULL
        )""",
    ),
    (
        # Proven offences, in the order in which they came, and what the chain made of them.
        """CREATE TABLE evidence (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, offence_id BLOB NOT NULL UNIQUE, data BLOB NOT NULL,
            first_seen_ms INTEGER NOT NULL, fate TEXT NOT NULL, detail TEXT NOT NULL,
            tx_hash BLOB, reward_wei TEXT NOT NULL
        )""",
    ),
    (
        # Credits are written where they change; a provider's newest is found by its address.
        "CREATE INDEX credit_provider ON credit (provider, height)",
    ),
    (
        # T that a provider sent in a session that ended without a receipt, where nobody vouched for all of them.
        "ALTER TABLE delivery ADD COLUMN sent INTEGER NOT NULL DEFAULT 0",
    ),
    (
        # Snapshots of what following the batches leads to, so that a start needn't replay everything.
        "CREATE TABLE snapshot (height INTEGER PRIMARY KEY, data BLOB NOT NULL, seal BLOB NOT NULL)",
        # Tickets that no batch could settle any more are forgotten by their age.
        "CREATE INDEX delivery_expiry ON delivery (expires_ms)",
        # Nothing reads or writes these.
        "DROP TABLE ledger",
        "DROP TABLE market",
        "DROP TABLE session",
        "DROP TABLE counter",
    ),
)

VERSION = len(MIGRATIONS)

UNBOUNDED = frozenset({"batch", "outcome", "credit"})
"""Tables that grow for ever. They follow from batches, which peers have too; no start reads them through, and their
damage shows where it is met."""
