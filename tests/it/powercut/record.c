/* Preloaded into a process: records its operations on the files below $RECORD_ROOT, in order.
 * A record is: kind, two numbers, two lengths, and the two byte strings. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int out = -1;
static struct { char tracked, mark; uint64_t inode; } files[4096];

static void start(void) {
    if (out >= 0) return;
    root = getenv("RECORD_ROOT");
    const char *path = getenv("RECORD_LOG");
    if (!root || !path) return;
    out = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path) {
    start();
    return out >= 0 && path && strncmp(path, root, strlen(root)) == 0;
}

static void put(const void *bytes, size_t len) {
    while (len > 0) {
        long n = syscall(SYS_write, out, bytes, len);
        if (n <= 0) abort();
        bytes = (const char *)bytes + n;
        len -= n;
    }
}

static void record(char kind, uint64_t a, uint64_t b, const void *x, uint64_t nx, const void *y, uint64_t ny) {
    uint64_t head[5] = { (uint64_t)kind, a, b, nx, ny };
    put(head, sizeof head);
    put(x, nx);
    put(y, ny);
}

static int is_mark(const char *path) {
    size_t n = strlen(path);
    return n > 6 && strcmp(path + n - 6, ".marks") == 0;
}

static uint64_t inode_at(const char *path) {
    struct stat s;
    return syscall(SYS_newfstatat, AT_FDCWD, path, &s, AT_SYMLINK_NOFOLLOW) == 0 ? s.st_ino : 0;
}

static int opened(const char *path, int flags, mode_t mode) {
    pthread_mutex_lock(&lock);
    int tracked = ours(path);
    uint64_t before = tracked ? inode_at(path) : 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && fd < 4096) {
        files[fd].tracked = tracked;
        files[fd].mark = tracked && is_mark(path);
        files[fd].inode = tracked ? inode_at(path) : 0;
        if (tracked && !files[fd].mark) {
            if (!before) record('C', files[fd].inode, 0, path, strlen(path), 0, 0);
            else if (flags & O_TRUNC) record('T', before, 0, 0, 0, 0, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list ap; va_start(ap, flags); mode = va_arg(ap, mode_t); va_end(ap); } \
        return opened(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

static int tracked(int fd) { return fd >= 0 && fd < 4096 && files[fd].tracked; }

int close(int fd) {
    if (fd >= 0 && fd < 4096) files[fd].tracked = 0;
    return syscall(SYS_close, fd);
}

static ssize_t written(int fd, const void *bytes, size_t len, off_t at, int appends) {
    if (!tracked(fd)) return appends ? syscall(SYS_write, fd, bytes, len) : syscall(SYS_pwrite64, fd, bytes, len, at);
    pthread_mutex_lock(&lock);
    if (appends) at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    ssize_t n = appends ? syscall(SYS_write, fd, bytes, len) : syscall(SYS_pwrite64, fd, bytes, len, at);
    if (n > 0) record(files[fd].mark ? 'K' : 'W', files[fd].inode, at, bytes, n, 0, 0);
    pthread_mutex_unlock(&lock);
    return n;
}

ssize_t write(int fd, const void *bytes, size_t len) { return written(fd, bytes, len, 0, 1); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 0); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 0); }

#define ONE_FILE(name, call, kind, ...) \
    { \
        int seen = tracked(fd); \
        if (seen) pthread_mutex_lock(&lock); \
        int r = call; \
        if (seen) { if (r == 0) record(kind, files[fd].inode, __VA_ARGS__, 0, 0, 0, 0); pthread_mutex_unlock(&lock); } \
        return r; \
    }
int ftruncate(int fd, off_t len) ONE_FILE(ftruncate, syscall(SYS_ftruncate, fd, len), 'T', len)
int ftruncate64(int fd, off_t len) ONE_FILE(ftruncate, syscall(SYS_ftruncate, fd, len), 'T', len)
/* The sync is only recorded: the disk is simulated. */
int fsync(int fd) ONE_FILE(fsync, 0, 'S', 0)
int fdatasync(int fd) ONE_FILE(fdatasync, 0, 'S', 0)

#define ONE_PATH(call, kind) \
    { \
        pthread_mutex_lock(&lock); \
        int seen = ours(path); \
        int r = call; \
        if (seen && r == 0) record(kind, kind == 'M' ? inode_at(path) : 0, 0, path, strlen(path), 0, 0); \
        pthread_mutex_unlock(&lock); \
        return r; \
    }
int mkdir(const char *path, mode_t mode) ONE_PATH(syscall(SYS_mkdirat, AT_FDCWD, path, mode), 'M')
int unlink(const char *path) ONE_PATH(syscall(SYS_unlinkat, AT_FDCWD, path, 0), 'U')
int rmdir(const char *path) ONE_PATH(syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR), 'U')

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    int seen = ours(from);
    int r = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (seen && r == 0) record('R', 0, 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&lock);
    return r;
}
