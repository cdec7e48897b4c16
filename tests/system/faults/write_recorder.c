/* Records what a process writes to the files of one folder, and when it makes them durable.
 *
 * For LD_PRELOAD. RECORD_FOLDER: the folder; RECORD_LOG: the record, outside of it. A record is
 * one line "<operation> <offset or size> <length of data> <path>", then the data.
 * Operations: W write at an offset, A write at the end, T truncate, S sync, U unlink.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void record(char operation, const char *path, long long offset, const void *data, size_t n) {
    static FILE *log;
    const char *folder = getenv("RECORD_FOLDER");
    if (!folder || strncmp(path, folder, strlen(folder)) != 0) return;
    pthread_mutex_lock(&one_at_a_time);
    if (!log) log = fopen(getenv("RECORD_LOG"), "wb");
    fprintf(log, "%c %lld %zu %s\n", operation, offset, n, path);
    fwrite(data, 1, n, log);
    fflush(log);
    pthread_mutex_unlock(&one_at_a_time);
}

static void record_fd(char operation, int fd, long long offset, const void *data, size_t n) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    record(operation, path, offset, data, n);
}

#define REAL(result, name, ...)                                                            \
    static result (*real)(__VA_ARGS__);                                                    \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* What is recorded has been done: a call that fails leaves nothing behind. */
#define PWRITE(name, offset_type)                                                          \
    ssize_t name(int fd, const void *data, size_t n, offset_type offset) {                 \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type);                      \
        ssize_t done = real(fd, data, n, offset);                                          \
        if (done > 0) record_fd('W', fd, offset, data, done);                              \
        return done;                                                                       \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t done = real(fd, data, n);
    if (done > 0) record_fd('A', fd, 0, data, done);
    return done;
}

#define TRUNCATE(name, offset_type)                                                        \
    int name(int fd, offset_type size) {                                                   \
        REAL(int, #name, int, offset_type);                                                \
        int failed = real(fd, size);                                                       \
        if (!failed) record_fd('T', fd, size, "", 0);                                      \
        return failed;                                                                     \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                         \
    int name(int fd) {                                                                     \
        REAL(int, #name, int);                                                             \
        int failed = real(fd);                                                             \
        if (!failed) record_fd('S', fd, 0, "", 0);                                         \
        return failed;                                                                     \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int failed = real(path);
    if (!failed) record('U', path, 0, "", 0);
    return failed;
}
