// Notices when the memory of a machine and its volumes do not belong together: agent.py, for machines, which have no Python. What is
// kept, and what must be found by one that is begun anew, is said there. Two things differ:
//
// * The page cache of a machine goes with its memory. So the mapping that one that is begun anew looks at is synced after each store, and
//   there is another one that is not, of which only the memory can know.
// * A file is made and removed over each number: it must not be in the way of a save.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOME "/home/agent/"
#define DB "/srv/db/"
#define DIGITS 12
// Numbers in a transaction.
#define ROUND 20
#define PORT 8080

static long number;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *what, ...) {
    FILE *wrong = fopen(HOME "wrong", "w");
    va_list arguments;
    va_start(arguments, what);
    if (wrong != NULL) {
        vfprintf(wrong, what, arguments);
        fclose(wrong);
    }
    exit(17);
}

static void must(int done, const char *what) {
    if (!done) fail("%s: %s", what, strerror(errno));
}

static void same(const char *what, long found, long expected) {
    if (found != expected) fail("%s says %ld, not %ld", what, found, expected);
}

// --- files of one number ----------------------------------------------------------------------------------------------------

static void put(int file) {
    char text[DIGITS + 1];
    snprintf(text, sizeof text, "%0*ld", DIGITS, number);
    must(pwrite(file, text, DIGITS, 0) == DIGITS, "write a number");
}

static long get(int file) {
    char text[DIGITS + 1] = {0};
    must(pread(file, text, DIGITS, 0) >= 0, "read a number");
    return atol(text);
}

static long get_at(const char *path) {
    int file = open(path, O_RDONLY);
    must(file >= 0, path);
    long found = get(file);
    close(file);
    return found;
}

// Never empty, whenever it is looked at.
static int number_file(const char *path) {
    int file = open(path, O_RDWR | O_CREAT, 0644);
    must(file >= 0, path);
    put(file);
    return file;
}

static char *mapping_of(const char *path) {
    int file = number_file(path);
    char *mapping = mmap(NULL, DIGITS, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    must(mapping != MAP_FAILED, path);
    close(file);
    return mapping;
}

static void store(char *mapping) {
    char text[DIGITS + 1];
    snprintf(text, sizeof text, "%0*ld", DIGITS, number);
    memcpy(mapping, text, DIGITS);
}

static long load(const char *mapping) {
    char text[DIGITS + 1] = {0};
    memcpy(text, mapping, DIGITS);
    return atol(text);
}

static long lines_of_log(void) {
    FILE *log = fopen(HOME "log", "r");
    must(log != NULL, "open the log");
    long lines = 0;
    for (int byte; (byte = getc(log)) != EOF;) lines += byte == '\n';
    fclose(log);
    return lines;
}

static int is_listed(DIR *directory, const char *name) {
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (strcmp(entry->d_name, name) == 0) return 1;
    return 0;
}

static int is_locked(void) {
    int other = open(HOME "lock", O_RDONLY);
    must(other >= 0, "open the lock");
    int refused = flock(other, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(other);
    return refused;
}

// --- the database -----------------------------------------------------------------------------------------------------------

static sqlite3 *writer, *reader;
static long committed;

static void execute(const char *command) {
    char *complaint = NULL;
    if (sqlite3_exec(writer, command, NULL, NULL, &complaint) != SQLITE_OK) fail("%s: %s", command, complaint);
}

// The first column of the first row of an answer that is read to its end.
static void ask(sqlite3 *connection, const char *query, char *answer, size_t size) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(connection, query, -1, &statement, NULL) != SQLITE_OK)
        fail("%s: %s", query, sqlite3_errmsg(connection));
    answer[0] = 0;
    if (sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0) != NULL)
        snprintf(answer, size, "%s", sqlite3_column_text(statement, 0));
    if (sqlite3_finalize(statement) != SQLITE_OK) fail("%s: %s", query, sqlite3_errmsg(connection));
}

static long ask_number(sqlite3 *connection, const char *query) {
    char answer[32];
    ask(connection, query, answer, sizeof answer);
    return atol(answer);
}

static long last(sqlite3 *connection) { return ask_number(connection, "SELECT MAX(number) FROM ledger"); }

static void enter(long each) {
    char command[64];
    snprintf(command, sizeof command, "INSERT INTO ledger VALUES (%ld)", each);
    execute(command);
}

static void commit_if_due(void) {
    if (number - committed != ROUND) return;
    execute("COMMIT");
    execute("BEGIN IMMEDIATE");
    committed = number;
}

// Each start changes the kind of the journal.
static void open_ledger(void) {
    char journal[16], command[64];
    must(sqlite3_open(DB "ledger", &writer) == SQLITE_OK, "open the database");
    ask(writer, "PRAGMA journal_mode", journal, sizeof journal);
    const char *wanted = strcmp(journal, "wal") == 0 ? "delete" : "wal";
    snprintf(command, sizeof command, "PRAGMA journal_mode = %s", wanted);
    ask(writer, command, journal, sizeof journal);
    if (strcmp(journal, wanted) != 0) fail("the journal is %s, not %s", journal, wanted);
    // Nothing but a host crash could take a commit back, and none comes.
    execute("PRAGMA synchronous = OFF");
    execute("CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY)");
    long count = ask_number(writer, "SELECT COUNT(*) FROM ledger");
    committed = last(writer);
    if (count != committed || committed % ROUND != 0 || number < committed || number - committed > ROUND)
        fail("the database was left with %ld of %ld numbers, %ld were written", count, committed, number);
    must(sqlite3_open_v2(DB "ledger", &reader, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK, "open the database again");
    execute("BEGIN IMMEDIATE");
    for (long each = committed + 1; each <= number; each++) enter(each);
    // What was left may have been written up to a commit, and not been committed.
    commit_if_due();
}

static void enter_last(void) {
    enter(number);
    commit_if_due();
}

// --- readiness --------------------------------------------------------------------------------------------------------------

static void *answer_all(void *unused) {
    (void)unused;
    const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", wanted[] = "GET /readyz ";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    must(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0, "listen");
    for (;;) {
        char request[4096] = {0};
        int connection = accept(listener, NULL, NULL);
        if (recv(connection, request, sizeof request - 1, 0) > 0 && strncmp(request, wanted, strlen(wanted)) == 0) {
            FILE *ready = fopen(HOME "ready", "a");
            must(ready != NULL, "say that it is ready");
            putc('.', ready);
            fclose(ready);
            // Who asked may have gone away.
            send(connection, answer, strlen(answer), MSG_NOSIGNAL);
        }
        close(connection);
    }
    return NULL;
}

// --- the work ---------------------------------------------------------------------------------------------------------------

static void look_at_what_was_left(void) {
    const char *paths[] = {DB "state", DB "mapped"};
    long before = number;
    for (size_t at = 0; at < 2; at++) {
        if (access(paths[at], F_OK) != 0) continue;
        long found = get_at(paths[at]);
        if (found < before - 1 || found > before || found < number - 1)
            fail("%s was left at %ld, with %ld in what was written before it", paths[at], found, before);
        before = found;
    }
}

int main(void) {
    int log = open(HOME "log", O_WRONLY | O_CREAT | O_APPEND, 0644);
    must(log >= 0, "open the log");
    number = lines_of_log();
    look_at_what_was_left();

    int state = number_file(DB "state"), hidden = number_file(HOME "hidden");
    int unlinks = strcmp(getenv("UNLINK"), "yes") == 0;
    if (unlinks) must(unlink(HOME "hidden") == 0, "unlink");
    char *mapped = mapping_of(DB "mapped"), *unsynced = mapping_of(HOME "unsynced");
    int lock = open(HOME "lock", O_RDWR | O_CREAT, 0644);
    must(lock >= 0 && flock(lock, LOCK_EX) == 0, "lock");
    DIR *directory = opendir(HOME);
    must(directory != NULL, "open the directory");
    open_ledger();

    for (int ready = 0;; ready = 1) {
        same("the log", lines_of_log(), number);
        same("the state", get_at(DB "state"), number);
        same("the open state", get(state), number);
        same("the hidden file", get(hidden), number);
        same("the mapping", load(mapped), number);
        same("the mapping that is never synced", load(unsynced), number);
        same("the transaction", last(writer), number);
        same("the other connection", last(reader), committed);
        must(is_listed(directory, "log"), "find the log in its directory");
        must(is_locked(), "hold the lock");
        number++;
        must(dprintf(log, "%ld\n", number) > 0, "write the log");
        put(state);
        put(hidden);
        store(mapped);
        must(msync(mapped, DIGITS, MS_SYNC) == 0, "sync the mapping");
        store(unsynced);
        enter_last();
        if (!ready) {
            // It is ready from its first number on.
            pthread_t thread;
            must(pthread_create(&thread, NULL, answer_all, NULL) == 0, "start a thread");
        }
        if (!unlinks) {
            // Where it keeps a removed file, somebody counts those that there are.
            int scratch = open(HOME "scratch", O_WRONLY | O_CREAT, 0644);
            must(scratch >= 0 && close(scratch) == 0 && unlink(HOME "scratch") == 0, "make a file for a moment");
        }
        usleep(10000);
    }
}
