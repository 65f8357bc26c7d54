"""Notices when its memory and its volumes do not belong together.

In two volumes it keeps a file open for append, one that it rewrites, one that has no name any more if it is told so, one that
is mapped, a directory, a lock, and a transaction of SQLite that stays open over twenty numbers. Before it writes the next number
it looks whether everything says the last one. It calls itself ready once it wrote one.

Begun anew on what a capture of data holds, it has no memory. What it finds must then be as of one instant all the same: each number goes
into all files in the same order, so that the later ones are behind by one at most, and the database by what was not committed.
"""
import fcntl
import mmap
import os
import socket
import sqlite3
import threading
import time

HOME, DB = '/home/agent/', '/srv/db/'
# Numbers in a transaction.
ROUND = 20
PORT = 8080


def fail(what):
    with open(HOME + 'wrong', 'w') as file:
        file.write(what)
    raise SystemExit(17)


def same(what, found, expected=None):
    expected = number if expected is None else expected
    if int(found) != expected:
        fail('%s says %s, not %d' % (what, found, expected))


def text_of(path):
    with open(path) as file:
        return file.read()


# --- what was left ---------------------------------------------------------------------------------------------------------

log = open(HOME + 'log', 'a')
number = len(text_of(HOME + 'log').splitlines())
before = number
for left in 'state', 'mapped':
    if os.path.exists(DB + left):
        found = int(text_of(DB + left) or 0)
        if not before - 1 <= found <= before or found < number - 1:
            fail('%s was left at %d, with %d in what was written before it' % (left, found, before))
        before = found


def number_file(path):
    # Never empty, whenever it is looked at.
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), 'r+')
    file.write('%012d' % number)
    file.flush()
    return file


state = number_file(DB + 'state')
hidden = number_file(HOME + 'hidden')
if os.environ['UNLINK'] == 'yes':
    os.unlink(HOME + 'hidden')
mapped_file = number_file(DB + 'mapped')
mapped = mmap.mmap(mapped_file.fileno(), 12)
lock = open(HOME + 'lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
directory = os.open(HOME, os.O_RDONLY)

# --- the database: each start changes the kind of its journal --------------------------------------------------------------

writer = sqlite3.connect(DB + 'ledger', isolation_level=None)
journal = writer.execute('PRAGMA journal_mode').fetchall()[0][0]
journal = 'delete' if journal == 'wal' else 'wal'
same('the journal', writer.execute('PRAGMA journal_mode = ' + journal).fetchall() == [(journal,)], True)
# Nothing but a host crash could take a commit back, and none comes.
writer.execute('PRAGMA synchronous = OFF')
writer.execute('CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY)')
count, committed = writer.execute('SELECT COUNT(*), COALESCE(MAX(number), 0) FROM ledger').fetchall()[0]
if count != committed or committed % ROUND != 0 or not 0 <= number - committed <= ROUND:
    fail('the database was left with %d of %d numbers, %d were written' % (count, committed, number))
reader = sqlite3.connect('file:' + DB + 'ledger?mode=ro', uri=True, isolation_level=None)


def last(connection):
    # All rows of an answer, so that the read ends.
    return connection.execute('SELECT MAX(number) FROM ledger').fetchall()[0][0] or 0


def enter(numbers):
    global committed
    writer.executemany('INSERT INTO ledger VALUES (?)', ((each,) for each in numbers))
    if number - committed == ROUND:
        writer.execute('COMMIT')
        writer.execute('BEGIN IMMEDIATE')
        committed = number


# --- readiness -------------------------------------------------------------------------------------------------------------

listener = socket.create_server(('', PORT))


def answer():
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1)
            try:
                if connection.recv(4096).startswith(b'GET /readyz '):
                    with open(HOME + 'ready', 'a') as file:
                        file.write('.')
                    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
            except OSError:
                # Who asked has gone away.
                pass


def begin_to_answer():
    threading.Thread(target=answer, daemon=True).start()


# --- the work --------------------------------------------------------------------------------------------------------------

def read(file):
    file.seek(0)
    return file.read(12)


def is_locked():
    with open(HOME + 'lock') as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


writer.execute('BEGIN IMMEDIATE')
enter(range(committed + 1, number + 1))
ready = False
while True:
    same('the log', len(text_of(HOME + 'log').splitlines()))
    same('the state', text_of(DB + 'state'))
    same('the open state', read(state))
    same('the hidden file', read(hidden))
    same('the mapping', mapped[0:12])
    same('the transaction', last(writer))
    same('the other connection', last(reader), committed)
    if 'log' not in os.listdir(directory):
        fail('the directory has no log')
    if not is_locked():
        fail('the lock is not held')
    number += 1
    log.write('%d\n' % number)
    log.flush()
    for file in (state, hidden):
        file.seek(0)
        file.write('%012d' % number)
        file.flush()
    mapped[0:12] = b'%012d' % number
    enter([number])
    if not ready:
        begin_to_answer()
        ready = True
    time.sleep(0.01)
