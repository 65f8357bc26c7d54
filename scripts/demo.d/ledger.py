"""Keeps a ledger in sqlite's WAL mode: ledger.py DATABASE TRANSACTIONS.

Each transaction moves money between two accounts and books it, so the balances always add up to zero: a
snapshot that cut a transaction in half would show.
"""

import os
import random
import sqlite3
import sys

database, transactions = sys.argv[1], int(sys.argv[2])
connection = sqlite3.connect(database, isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=NORMAL")
connection.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
connection.execute("CREATE TABLE IF NOT EXISTS booking (id INTEGER PRIMARY KEY, payer INTEGER, payee INTEGER, amount INTEGER)")
connection.executemany("INSERT OR IGNORE INTO account VALUES (?, 0)", ((n,) for n in range(50)))

for _ in range(transactions):
    if os.path.exists("stop"):
        break
    payer, payee = random.sample(range(50), 2)
    amount = random.randint(1, 1000)
    connection.execute("BEGIN")
    connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, payer))
    connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, payee))
    connection.execute("INSERT INTO booking (payer, payee, amount) VALUES (?, ?, ?)", (payer, payee, amount))
    connection.execute("COMMIT")
connection.close()
