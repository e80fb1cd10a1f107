"""A queue on SQLite, as one would write it: lines of standard input, a transaction every 200 ms."""

import sqlite3
import sys
import time

FLUSH_INTERVAL = 0.2

database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = FULL")
database.execute("CREATE TABLE queue (seq INTEGER PRIMARY KEY, frame TEXT NOT NULL)")
sys.stdout.write("r")
sys.stdout.flush()
database.execute("BEGIN")
begun = time.monotonic()
for line in sys.stdin:
    database.execute("INSERT INTO queue (frame) VALUES (?)", (line,))
    if time.monotonic() - begun >= FLUSH_INTERVAL:
        database.execute("COMMIT")
        database.execute("BEGIN")
        begun = time.monotonic()
database.execute("COMMIT")
sys.stdout.write("d")
sys.stdout.flush()
