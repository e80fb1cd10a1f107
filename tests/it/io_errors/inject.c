/* Preloaded into a test process: lets chosen system calls fail. There is one rule, which the test
 * sets by opening the path
 *
 *   /inject/CALLS/ERRNO/SKIP/COUNT/FROM/TO/NEEDLE
 *
 * Calls of the kinds CALLS on files whose path contains NEEDLE fail with ERRNO: COUNT of them, after
 * SKIP that do not. Kinds: o open, d open a folder, m mkdir, n rename, u unlink or rmdir, s fsync,
 * w write, t truncate, r read. A read only counts if it touches the bytes FROM up to TO; it then
 * reads what is before them, or fails. If TO is a number below 2^64 - 1, only reads of the first file
 * that was hit fail: the bad sector stays where it is when the file is replaced. With the kind 1, only
 * calls of the current thread count.
 *
 * Opening /inject/hits fails with EEXIST if the rule made a call fail, otherwise with ENOENT. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char paths[FILES][256];
static struct {
    char calls[16], needle[128];
    int error, thread;
    long skip, count, hits;
    unsigned long long from, to, inode;
} rule;

static int fails(char call, const char *path) {
    int failed = 0;
    pthread_mutex_lock(&lock);
    if (rule.count > 0 && strchr(rule.calls, call) && path && strstr(path, rule.needle) &&
        (!strchr(rule.calls, '1') || rule.thread == gettid())) {
        if (rule.skip > 0) {
            rule.skip--;
        } else {
            rule.count--;
            rule.hits++;
            failed = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    if (failed) errno = rule.error;
    return failed;
}

static const char *path_of(int fd) { return fd >= 0 && fd < FILES ? paths[fd] : ""; }

static int opened(const char *path, int flags, mode_t mode) {
    if (strcmp(path, "/inject/hits") == 0) {
        errno = rule.hits > 0 ? EEXIST : ENOENT;
        return -1;
    }
    if (strncmp(path, "/inject/", 8) == 0) {
        pthread_mutex_lock(&lock);
        memset(&rule, 0, sizeof rule);
        sscanf(path, "/inject/%15[^/]/%d/%ld/%ld/%llu/%llu/%127s", rule.calls, &rule.error,
               &rule.skip, &rule.count, &rule.from, &rule.to, rule.needle);
        rule.thread = gettid();
        pthread_mutex_unlock(&lock);
        errno = ENOENT;
        return -1;
    }
    if (fails('o', path)) return -1;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && fd < FILES) snprintf(paths[fd], sizeof paths[fd], "%s", path);
    return fd;
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        mode_t mode = 0;                                             \
        if (flags & (O_CREAT | O_TMPFILE)) {                         \
            va_list ap;                                              \
            va_start(ap, flags);                                     \
            mode = va_arg(ap, mode_t);                               \
            va_end(ap);                                              \
        }                                                            \
        return opened(path, flags, mode);                            \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (fd >= 0 && fd < FILES) paths[fd][0] = 0;
    return syscall(SYS_close, fd);
}

DIR *opendir(const char *path) {
    static DIR *(*next)(const char *);
    if (!next) next = dlsym(RTLD_NEXT, "opendir");
    return fails('d', path) ? NULL : next(path);
}

/* The number of bytes to read, or -1. */
static ssize_t readable(int fd, size_t len, unsigned long long at) {
    const char *path = path_of(fd);
    if (!path[0] || !strchr(rule.calls, 'r') || at >= rule.to || at + len <= rule.from) return len;
    struct stat file;
    if (fstat(fd, &file) != 0 || (rule.inode && file.st_ino != rule.inode)) return len;
    if (at < rule.from) return strstr(path, rule.needle) ? rule.from - at : len;
    if (!fails('r', path)) return len;
    if (rule.to != ~0ULL) rule.inode = file.st_ino;
    return -1;
}

ssize_t read(int fd, void *bytes, size_t len) {
    ssize_t n = len;
    if (path_of(fd)[0]) n = readable(fd, len, syscall(SYS_lseek, fd, 0, SEEK_CUR));
    return n < 0 ? n : syscall(SYS_read, fd, bytes, n);
}

static ssize_t read_at(int fd, void *bytes, size_t len, off_t at) {
    ssize_t n = readable(fd, len, at);
    return n < 0 ? n : syscall(SYS_pread64, fd, bytes, n, at);
}
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return read_at(fd, bytes, len, at); }
ssize_t pread64(int fd, void *bytes, size_t len, off_t at) { return read_at(fd, bytes, len, at); }

/* Copies then go through read(). */
ssize_t copy_file_range(int in, off64_t *at_in, int out, off64_t *at_out, size_t len, unsigned flags) {
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int out, int in, off_t *at, size_t len) { errno = ENOSYS; return -1; }
ssize_t sendfile64(int out, int in, off64_t *at, size_t len) { errno = ENOSYS; return -1; }

ssize_t write(int fd, const void *bytes, size_t len) {
    return path_of(fd)[0] && fails('w', path_of(fd)) ? -1 : syscall(SYS_write, fd, bytes, len);
}

#define ONE_FILE(name, kind, call) { return fails(kind, path_of(fd)) ? -1 : call; }
int ftruncate(int fd, off_t len) ONE_FILE(ftruncate, 't', syscall(SYS_ftruncate, fd, len))
int ftruncate64(int fd, off64_t len) ONE_FILE(ftruncate64, 't', syscall(SYS_ftruncate, fd, len))
int fsync(int fd) ONE_FILE(fsync, 's', syscall(SYS_fsync, fd))
int fdatasync(int fd) ONE_FILE(fdatasync, 's', syscall(SYS_fdatasync, fd))

#define ONE_PATH(kind, call) { return fails(kind, path) ? -1 : call; }
int mkdir(const char *path, mode_t mode) ONE_PATH('m', syscall(SYS_mkdirat, AT_FDCWD, path, mode))
int unlink(const char *path) ONE_PATH('u', syscall(SYS_unlinkat, AT_FDCWD, path, 0))
int rmdir(const char *path) ONE_PATH('u', syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR))

int rename(const char *path, const char *to) {
    if (fails('n', path)) return -1;
    return syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, to, 0);
}
