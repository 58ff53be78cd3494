/* Stands between a process and its files (LD_PRELOAD). It counts the calls that change what is below one folder, the
 * write boundaries, and at the one it was told of it kills the process or makes the call fail; reads too, on request.
 *
 * A call that a folder's owner makes through libc is seen: SQLite, CPython and shutil make theirs so. Stores into a
 * mapping are not: SQLite writes its WAL index (-shm) that way, which it builds anew from the WAL after a crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, SYNC = 2, TRUNCATE = 4, RENAME = 8, REMOVE = 16, MAKE = 32, READ = 64 };
enum mode { COUNT, KILL_BEFORE, KILL_AFTER, KILL_TORN, FAIL_ONCE, FAIL_ON, FAIL_SHORT };
enum verdict { GO, FAIL, DIE_AFTER, HALF };

/* A boundary as it is told to the driver. */
struct boundary {
    int kind;
    long size;
    char path[120];
};

#define MOST 20000
static struct boundary seen[MOST];
static char root[PATH_MAX];
static size_t root_length;
static long count, stop_at;
static int mode, failure, kinds, armed;

/* From now on the `at`-th boundary (from 1) of these kinds below `folder`, a real path, is the one. */
void fault_arm(const char *folder, int kinds_, int mode_, long at, int failure_) {
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    kinds = kinds_, mode = mode_, stop_at = at, failure = failure_, count = 0;
    __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

void fault_disarm(void) { __atomic_store_n(&armed, 0, __ATOMIC_SEQ_CST); }
long fault_count(void) { return count; }
const struct boundary *fault_seen(long n) { return n >= 0 && n < count && n < MOST ? &seen[n] : NULL; }

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

static int inside(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int path_of(int fd, char *out) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void absolute(int folder, const char *name, char *out) {
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return;
    }
    char base[PATH_MAX];
    if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(folder, base)) base[0] = 0;
    snprintf(out, 2 * PATH_MAX, "%s/%s", base, name);
}

static enum verdict boundary(int kind, const char *path, long size) {
    if (!(kind & kinds) || !inside(path)) return GO;
    long n = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (n <= MOST) {
        seen[n - 1].kind = kind, seen[n - 1].size = size;
        snprintf(seen[n - 1].path, sizeof seen[n - 1].path, "%s", path + root_length);
    }
    if (mode == COUNT || n < stop_at || (n > stop_at && mode != FAIL_ON && mode != FAIL_SHORT)) return GO;
    if (mode == KILL_BEFORE) die();
    if (mode == KILL_AFTER) return DIE_AFTER;
    if (mode == KILL_TORN) return kind == WRITE && size > 1 ? HALF : DIE_AFTER;
    if (mode == FAIL_SHORT && n == stop_at && kind == WRITE && size > 1) return HALF;
    return FAIL;
}

static enum verdict on_file(int kind, int fd, long size) {
    char path[PATH_MAX];
    if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST) || !path_of(fd, path)) return GO;
    return boundary(kind, path, size);
}

static enum verdict on_name(int kind, int folder, const char *name) {
    char path[2 * PATH_MAX];
    if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST)) return GO;
    absolute(folder, name, path);
    return boundary(kind, path, 0);
}

static void done(enum verdict verdict) {
    int kept = errno;
    if (verdict == DIE_AFTER || (verdict == HALF && mode == KILL_TORN)) die();
    errno = kept;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* `verdict` first, then the real call, then whatever was to come after it. */
#define CALL(type, verdict_, call) \
    do { \
        enum verdict verdict = verdict_; \
        if (verdict == FAIL) { \
            errno = failure; \
            return (type)-1; \
        } \
        type result = call; \
        done(verdict); \
        return result; \
    } while (0)

#define SIZE(size) (verdict == HALF ? (size) / 2 : (size))

ssize_t read(int fd, void *data, size_t size) {
    REAL(read);
    CALL(ssize_t, on_file(READ, fd, size), real(fd, data, size));
}
ssize_t pread(int fd, void *data, size_t size, off_t at) {
    REAL(pread);
    CALL(ssize_t, on_file(READ, fd, size), real(fd, data, size, at));
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    REAL(pread64);
    CALL(ssize_t, on_file(READ, fd, size), real(fd, data, size, at));
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    CALL(ssize_t, on_file(WRITE, fd, size), real(fd, data, SIZE(size)));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    CALL(ssize_t, on_file(WRITE, fd, size), real(fd, data, SIZE(size), at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    CALL(ssize_t, on_file(WRITE, fd, size), real(fd, data, SIZE(size), at));
}

/* Of several parts at once none is torn: nobody here writes so. */
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    CALL(ssize_t, on_file(WRITE, fd, 0), real(fd, parts, n));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) {
    REAL(pwritev64);
    CALL(ssize_t, on_file(WRITE, fd, 0), real(fd, parts, n, at));
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    REAL(sendfile64);
    CALL(ssize_t, on_file(WRITE, out, size), real(out, in, at, SIZE(size)));
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) { return sendfile64(out, in, at, size); }
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    CALL(ssize_t, on_file(WRITE, out, size), real(in, in_at, out, out_at, SIZE(size), flags));
}

int fsync(int fd) {
    REAL(fsync);
    CALL(int, on_file(SYNC, fd, 0), real(fd));
}
int fdatasync(int fd) {
    REAL(fdatasync);
    CALL(int, on_file(SYNC, fd, 0), real(fd));
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    CALL(int, on_file(TRUNCATE, fd, size), real(fd, size));
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    CALL(int, on_file(TRUNCATE, fd, size), real(fd, size));
}
int truncate64(const char *name, off64_t size) {
    REAL(truncate64);
    CALL(int, on_name(TRUNCATE, AT_FDCWD, name), real(name, size));
}

int rename(const char *from, const char *to) {
    REAL(rename);
    CALL(int, on_name(RENAME, AT_FDCWD, to), real(from, to));
}
int renameat(int from, const char *name, int to, const char *new) {
    REAL(renameat);
    CALL(int, on_name(RENAME, to, new), real(from, name, to, new));
}
int link(const char *from, const char *to) {
    REAL(link);
    CALL(int, on_name(MAKE, AT_FDCWD, to), real(from, to));
}
int linkat(int from, const char *name, int to, const char *new, int flags) {
    REAL(linkat);
    CALL(int, on_name(MAKE, to, new), real(from, name, to, new, flags));
}
int symlink(const char *target, const char *name) {
    REAL(symlink);
    CALL(int, on_name(MAKE, AT_FDCWD, name), real(target, name));
}

int unlink(const char *name) {
    REAL(unlink);
    CALL(int, on_name(REMOVE, AT_FDCWD, name), real(name));
}
int unlinkat(int folder, const char *name, int flags) {
    REAL(unlinkat);
    CALL(int, on_name(REMOVE, folder, name), real(folder, name, flags));
}
int rmdir(const char *name) {
    REAL(rmdir);
    CALL(int, on_name(REMOVE, AT_FDCWD, name), real(name));
}

int mkdir(const char *name, mode_t rights) {
    REAL(mkdir);
    CALL(int, on_name(MAKE, AT_FDCWD, name), real(name, rights));
}
int mkdirat(int folder, const char *name, mode_t rights) {
    REAL(mkdirat);
    CALL(int, on_name(MAKE, folder, name), real(folder, name, rights));
}

#define RIGHTS(flags, rights) \
    mode_t rights = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        rights = va_arg(more, mode_t); \
        va_end(more); \
    }
#define ON_OPEN(folder, name, flags) ((flags) & (O_CREAT | O_TRUNC) ? on_name(MAKE, folder, name) : GO)

int open(const char *name, int flags, ...) {
    RIGHTS(flags, rights)
    REAL(open);
    CALL(int, ON_OPEN(AT_FDCWD, name, flags), real(name, flags, rights));
}
int open64(const char *name, int flags, ...) {
    RIGHTS(flags, rights)
    REAL(open64);
    CALL(int, ON_OPEN(AT_FDCWD, name, flags), real(name, flags, rights));
}
int openat(int folder, const char *name, int flags, ...) {
    RIGHTS(flags, rights)
    REAL(openat);
    CALL(int, ON_OPEN(folder, name, flags), real(folder, name, flags, rights));
}
int openat64(int folder, const char *name, int flags, ...) {
    RIGHTS(flags, rights)
    REAL(openat64);
    CALL(int, ON_OPEN(folder, name, flags), real(folder, name, flags, rights));
}
