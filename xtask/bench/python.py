"""JSON and SQLite loops for `cargo xtask bench`.

usage: python.py CPU
In: lines `MODE MILLISECONDS`. Out: for each, a line `CPU_NS WALL_NS UNITS`. As in loops.c, the process stays, so that
tracers come and go between two lines, and CPU time is that of the thread.
"""

import json
import os
import sqlite3
import sys
import time

DOCUMENT = {
    "users": [
        {
            "id": number,
            "name": f"user {number}",
            "mail": f"user{number}@example.org",
            "tags": ["a", "longer one", f"tag {number % 7}"],
            "score": number * 1.25,
            "address": {"street": "Long Street", "number": number, "city": None},
        }
        for number in range(20)
    ]
}


def documents(units):
    """Each unit writes a document and reads it back."""
    for _ in range(units):
        json.loads(json.dumps(DOCUMENT))


def rows(units):
    """Each unit is a row inserted into a table in memory, in one transaction."""
    database = sqlite3.connect(":memory:")
    database.execute("create table people (id integer primary key, name text, mail text, score real)")
    database.execute("create index by_name on people (name)")
    with database:
        database.executemany(
            "insert into people (name, mail, score) values (?, ?, ?)",
            ((f"user {row}", f"user{row}@example.org", row * 1.25) for row in range(units)),
        )
    database.close()


def spend(work, batch, largest, budget_ns):
    """Runs `work(units)` in batches until the budget is spent."""
    wall, start, units = time.monotonic_ns(), time.thread_time_ns(), 0
    while True:
        work(batch)
        units += batch
        used = time.thread_time_ns() - start
        if used >= budget_ns:
            return used, time.monotonic_ns() - wall, units
        batch = min(batch * 2, largest) if used * 8 < budget_ns else batch


MODES = {"json": (documents, 1, 64), "sqlite": (rows, 250, 100_000)}

if int(sys.argv[1]) >= 0:
    os.sched_setaffinity(0, {int(sys.argv[1])})
for line in sys.stdin:
    mode, milliseconds = line.split()
    print(*spend(*MODES[mode], int(milliseconds) * 1_000_000), flush=True)
