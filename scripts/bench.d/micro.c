/* micro: one file-system operation, many times, timed from the outside with as little client as possible.
 *
 *   micro fill DIR FILES BYTES            FILES files of BYTES bytes, 100 to a directory (untimed preparation works too)
 *   micro stat|openread DIR FILES PASSES  over the files that `fill` made; one pass first that is not counted
 *   micro walk DIR FILES                  stat each file once, without a pass before: cold when caches were dropped
 *   micro create|unlink|rename DIR FILES  create: 4 KiB written; rename and unlink: of what create made
 *   micro seqwrite|seqread FILE MIB       1 MiB at a time; seqwrite ends with an fsync that is timed apart
 *   micro randwrite FILE MIB OPS          4 KiB at random page offsets of a file of MIB MiB
 *   micro fsyncwrite FILE OPS             4 KiB written and fsynced, each time
 *   micro data DIR FILES MIB              FILES files of MIB MiB each, of bytes that do not compress
 *   micro flat DIR FILES | tree DIR FILES empty files in one directory, or 1000 to a directory
 *   micro list DIR                        reads all entries of a directory
 *   micro churn DIR FILES SECONDS         a writer: creates, rewrites, renames, unlinks, some fsyncs, until told by the clock
 *   micro calls COUNT PAUSE_MS FILE OUT TIMES -- COMMAND...   runs a command COUNT times; its output goes to OUT, the time of
 *                                         each call to TIMES; FILE, unless it is `-`, gets 4 KiB written before each call
 *
 * Prints `name count nanoseconds` per timed phase. Any unexpected result of a call ends the program: a number
 * measured over failing calls would be a lie. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static const char *operation;

static void fail(const char *path) {
    fprintf(stderr, "micro %s: %s: %s\n", operation, path, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void report(const char *name, uint64_t count, uint64_t nanoseconds) {
    printf("%s %llu %llu\n", name, (unsigned long long)count, (unsigned long long)nanoseconds);
    fflush(stdout);
}

static uint64_t state = 0x9e3779b97f4a7c15u;
static uint64_t next_random(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Bytes that neither compress nor repeat: a store that shortens data must not win by it. */
static void randomize(char *buffer, size_t length) {
    for (size_t i = 0; i + 8 <= length; i += 8) {
        uint64_t value = next_random();
        memcpy(buffer + i, &value, 8);
    }
}

static char *name_of(const char *directory, long i, long per_directory, const char *prefix) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/d%ld/%s%ld", directory, i / per_directory, prefix, i);
    return path;
}

static void make_directories(const char *directory, long files, long per_directory) {
    char path[4096];
    for (long d = 0; d * per_directory < files; d++) {
        snprintf(path, sizeof path, "%s/d%ld", directory, d);
        if (mkdir(path, 0755) < 0 && errno != EEXIST) fail(path);
    }
}

static void put_file(const char *path, const char *bytes, size_t length) {
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) fail(path);
    if (length > 0 && write(fd, bytes, length) != (ssize_t)length) fail(path);
    if (close(fd) < 0) fail(path);
}

enum { PER_DIRECTORY = 100, BLOCK = 4096 };
static char block[1 << 20];

static void fill(const char *directory, long files, long bytes) {
    if (bytes > (long)sizeof block) bytes = sizeof block;
    randomize(block, sizeof block);
    make_directories(directory, files, PER_DIRECTORY);
    uint64_t start = now();
    for (long i = 0; i < files; i++) put_file(name_of(directory, i, PER_DIRECTORY, "f"), block, (size_t)bytes);
    report("fill", (uint64_t)files, now() - start);
}

static void stat_all(const char *directory, long files) {
    struct stat attributes;
    for (long i = 0; i < files; i++) {
        char *path = name_of(directory, i, PER_DIRECTORY, "f");
        if (stat(path, &attributes) < 0) fail(path);
    }
}

static void read_all(const char *directory, long files) {
    for (long i = 0; i < files; i++) {
        char *path = name_of(directory, i, PER_DIRECTORY, "f");
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) fail(path);
        if (read(fd, block, BLOCK) != BLOCK) fail(path);
        close(fd);
    }
}

static void repeat(void (*pass)(const char *, long), const char *directory, long files, long passes) {
    pass(directory, files);
    uint64_t start = now();
    for (long p = 0; p < passes; p++) pass(directory, files);
    report(operation, (uint64_t)(files * passes), now() - start);
}

static void create(const char *directory, long files) {
    randomize(block, BLOCK);
    make_directories(directory, files, PER_DIRECTORY);
    uint64_t start = now();
    for (long i = 0; i < files; i++) put_file(name_of(directory, i, PER_DIRECTORY, "f"), block, BLOCK);
    report("create", (uint64_t)files, now() - start);
}

static void rename_all(const char *directory, long files) {
    char from[4096];
    uint64_t start = now();
    for (long i = 0; i < files; i++) {
        strcpy(from, name_of(directory, i, PER_DIRECTORY, "f"));
        char *to = name_of(directory, i, PER_DIRECTORY, "r");
        if (rename(from, to) < 0) fail(from);
    }
    report("rename", (uint64_t)files, now() - start);
}

static void unlink_all(const char *directory, long files) {
    uint64_t start = now();
    for (long i = 0; i < files; i++) {
        char *path = name_of(directory, i, PER_DIRECTORY, "r");
        if (unlink(path) < 0) fail(path);
    }
    report("unlink", (uint64_t)files, now() - start);
}

static void write_sequentially(const char *path, long mebibytes) {
    randomize(block, sizeof block);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) fail(path);
    uint64_t start = now();
    for (long i = 0; i < mebibytes; i++)
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block) fail(path);
    uint64_t written = now();
    report("seqwrite", (uint64_t)mebibytes, written - start);
    if (fsync(fd) < 0) fail(path);
    report("seqwrite+fsync", (uint64_t)mebibytes, now() - start);
    close(fd);
}

static void read_sequentially(const char *path, long mebibytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(path);
    uint64_t start = now();
    for (long i = 0; i < mebibytes; i++)
        if (read(fd, block, sizeof block) != (ssize_t)sizeof block) fail(path);
    report("seqread", (uint64_t)mebibytes, now() - start);
    close(fd);
}

static void write_randomly(const char *path, long mebibytes, long operations) {
    randomize(block, BLOCK);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) fail(path);
    uint64_t pages = (uint64_t)mebibytes * (1 << 20) / BLOCK;
    uint64_t start = now();
    for (long i = 0; i < operations; i++) {
        off_t offset = (off_t)(next_random() % pages) * BLOCK;
        if (pwrite(fd, block, BLOCK, offset) != BLOCK) fail(path);
    }
    report("randwrite", (uint64_t)operations, now() - start);
    close(fd);
}

static void write_durably(const char *path, long operations) {
    randomize(block, BLOCK);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) fail(path);
    uint64_t start = now();
    for (long i = 0; i < operations; i++) {
        if (pwrite(fd, block, BLOCK, (off_t)(i % 1024) * BLOCK) != BLOCK) fail(path);
        if (fsync(fd) < 0) fail(path);
    }
    report("fsyncwrite", (uint64_t)operations, now() - start);
    close(fd);
}

static void write_data(const char *directory, long files, long mebibytes) {
    char path[4096];
    uint64_t start = now();
    for (long f = 0; f < files; f++) {
        snprintf(path, sizeof path, "%s/data%ld", directory, f);
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) fail(path);
        randomize(block, sizeof block);
        for (long i = 0; i < mebibytes; i++) {
            /* A new value at the head of each page: no two pages of the data are equal. */
            for (size_t page = 0; page < sizeof block; page += BLOCK) {
                uint64_t value = next_random();
                memcpy(block + page, &value, 8);
            }
            if (write(fd, block, sizeof block) != (ssize_t)sizeof block) fail(path);
        }
        if (fsync(fd) < 0) fail(path);
        close(fd);
    }
    report("data", (uint64_t)(files * mebibytes), now() - start);
}

static void make_empty(const char *directory, long files, long per_directory) {
    make_directories(directory, files, per_directory);
    uint64_t start = now();
    for (long i = 0; i < files; i++) put_file(name_of(directory, i, per_directory, "f"), block, 0);
    report(operation, (uint64_t)files, now() - start);
}

static void walk(const char *directory, long files, long per_directory) {
    struct stat attributes;
    uint64_t start = now();
    for (long i = 0; i < files; i++) {
        char *path = name_of(directory, i, per_directory, "f");
        if (stat(path, &attributes) < 0) fail(path);
    }
    report("walk", (uint64_t)files, now() - start);
}

static void list(const char *directory) {
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) fail(directory);
    uint64_t count = 0, start = now();
    for (;;) {
        long got = syscall(SYS_getdents64, fd, block, sizeof block);
        if (got < 0) fail(directory);
        if (got == 0) break;
        for (long at = 0; at < got; count++) {
            unsigned short length;
            memcpy(&length, block + at + 16, sizeof length); /* d_reclen of struct linux_dirent64 */
            at += length;
        }
    }
    report("list", count, now() - start);
    close(fd);
}

/* A writer that makes no more space than its set of files takes: what it does can go on for any time. */
static void churn(const char *directory, long files, long seconds) {
    char a[4096], b[4096];
    randomize(block, BLOCK);
    state ^= (uint64_t)getpid() << 32;
    uint64_t count = 0, end = now() + (uint64_t)seconds * 1000000000u;
    if (mkdir(directory, 0755) < 0 && errno != EEXIST) fail(directory);
    while (now() < end) {
        long i = (long)(next_random() % (uint64_t)files);
        snprintf(a, sizeof a, "%s/w%ld", directory, i);
        snprintf(b, sizeof b, "%s/v%ld", directory, i);
        int fd = open(a, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) fail(a);
        if (pwrite(fd, block, BLOCK, (off_t)(next_random() % 8) * BLOCK) != BLOCK) fail(a);
        if (count % 256 == 0 && fsync(fd) < 0) fail(a);
        close(fd);
        if (count % 4 == 1 && rename(a, b) < 0) fail(a);
        if (count % 4 == 3 && unlink(a) < 0) fail(a);
        count++;
    }
    report("churn", count, (uint64_t)seconds * 1000000000u);
}

static void call_repeatedly(long count, long pause_ms, const char *changed, const char *output, const char *times, char **command) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output, O_CREAT | O_WRONLY | O_APPEND, 0644);
    FILE *log = fopen(times, "w");
    if (!log) fail(times);
    int fd = strcmp(changed, "-") == 0 ? -1 : open(changed, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0 && strcmp(changed, "-") != 0) fail(changed);
    uint64_t total = 0;
    for (long i = 0; i < count; i++) {
        pid_t pid;
        int status;
        randomize(block, BLOCK);
        if (fd >= 0 && pwrite(fd, block, BLOCK, 0) != BLOCK) fail(changed);
        uint64_t start = now();
        errno = posix_spawnp(&pid, command[0], &actions, NULL, command, environ);
        if (errno) fail(command[0]);
        if (waitpid(pid, &status, 0) < 0) fail(command[0]);
        uint64_t took = now() - start;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "micro calls: %s: wait status %d\n", command[0], status);
            exit(1);
        }
        fprintf(log, "%llu\n", (unsigned long long)took);
        total += took;
        usleep((useconds_t)pause_ms * 1000);
    }
    fclose(log);
    report("calls", (uint64_t)count, total);
}

int main(int argc, char **argv) {
    operation = argc > 1 ? argv[1] : "";
    const char *path = argc > 2 ? argv[2] : "";
    long a = argc > 3 ? atol(argv[3]) : 0, b = argc > 4 ? atol(argv[4]) : 0;
#define IS(name, arguments) (strcmp(operation, name) == 0 && argc == 2 + (arguments))
    if (IS("fill", 3)) fill(path, a, b);
    else if (IS("stat", 3)) repeat(stat_all, path, a, b);
    else if (IS("openread", 3)) repeat(read_all, path, a, b);
    else if (IS("walk", 2)) walk(path, a, PER_DIRECTORY);
    else if (IS("walk", 3)) walk(path, a, b);
    else if (IS("create", 2)) create(path, a);
    else if (IS("rename", 2)) rename_all(path, a);
    else if (IS("unlink", 2)) unlink_all(path, a);
    else if (IS("seqwrite", 2)) write_sequentially(path, a);
    else if (IS("seqread", 2)) read_sequentially(path, a);
    else if (IS("randwrite", 3)) write_randomly(path, a, b);
    else if (IS("fsyncwrite", 2)) write_durably(path, a);
    else if (IS("data", 3)) write_data(path, a, b);
    else if (IS("flat", 2)) make_empty(path, a, a);
    else if (IS("tree", 2)) make_empty(path, a, 1000);
    else if (IS("list", 1)) list(path);
    else if (IS("churn", 3)) churn(path, a, b);
    else if (strcmp(operation, "calls") == 0 && argc > 8 && strcmp(argv[7], "--") == 0)
        call_repeatedly(atol(argv[2]), atol(argv[3]), argv[4], argv[5], argv[6], argv + 8);
    else {
        fprintf(stderr, "micro: see the comment at the top of micro.c\n");
        return 2;
    }
    return 0;
}
