/* Writes down everything that a process does to the files of one folder, in order: what a disk would be told.
 *
 * Loaded with LD_PRELOAD. $RECORD_FOLDER says which folder, $RECORD_LOG where to write. A record is a header, two
 * paths and data; it is one write() to a file that is open for appending, so those of several processes don't mix.
 * What goes to descriptor 1 is written down too: it shows when something was acknowledged.
 *
 * A `-shm` is left out: it is an index of the log that no power cut outlives, and is made anew. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
  char what; /* C create, W write, T truncate, S sync, D sync of a folder, U unlink, L link, R rename, O output */
  char unused[3];
  uint32_t first, second; /* the lengths of the paths */
  uint64_t offset, size;  /* of a write: where, and how many bytes follow; of a truncation: the new size */
} __attribute__((packed));

static int log_fd = -1;
static char folder[PATH_MAX];
static size_t folder_length;

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
  const char *where = getenv("RECORD_FOLDER"), *log = getenv("RECORD_LOG");
  if (!where || !log || !realpath(where, folder)) return;
  folder_length = strlen(folder);
  int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700); /* out of the way of what a process closes */
  close(fd);
}

static void note(char what, const char *first, const char *second, uint64_t offset, const void *data, uint64_t size) {
  struct header header = {what, {0}, strlen(first), strlen(second), offset, size};
  struct iovec parts[4] = {{&header, sizeof header}, {(void *)first, header.first}, {(void *)second, header.second},
                           {(void *)data, data ? size : 0}};
  if (writev(log_fd, parts, 4) < 0) abort();
}

static int is_ours(const char *path) {
  size_t length = strlen(path);
  if (log_fd < 0 || strncmp(path, folder, folder_length) || (path[folder_length] && path[folder_length] != '/')) return 0;
  return length < 4 || strcmp(path + length - 4, "-shm");
}

/* The path of an open file, if it is in the folder and still has a name. */
static int named(int fd, char *path) {
  char link[64];
  if (log_fd < 0 || fd == log_fd) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_ours(path) && !strstr(path, " (deleted)");
}

/* A path in full, whether or not something is there. */
static int in_full(const char *path, char *full) {
  if (log_fd < 0) return 0;
  char copy[PATH_MAX], parent[PATH_MAX];
  snprintf(copy, sizeof copy, "%s", path);
  char *slash = strrchr(copy, '/');
  const char *name = slash ? slash + 1 : copy;
  if (slash) *slash = 0;
  if (!realpath(slash ? (*copy ? copy : "/") : ".", parent)) return 0;
  snprintf(full, PATH_MAX, "%s/%s", parent, name);
  return is_ours(full);
}

static int opened(int fd, const char *path, int flags, int was_there) {
  char full[PATH_MAX];
  if (fd >= 0 && (flags & (O_CREAT | O_TRUNC)) && in_full(path, full)) {
    if (!was_there) note('C', full, "", 0, 0, 0);
    else if (flags & O_TRUNC) note('T', full, "", 0, 0, 0);
  }
  return fd;
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) {
  MODE(flags)
  REAL(open);
  int was_there = access(path, F_OK) == 0;
  return opened(real(path, flags, mode), path, flags, was_there);
}

int open64(const char *path, int flags, ...) {
  MODE(flags)
  REAL(open64);
  int was_there = access(path, F_OK) == 0;
  return opened(real(path, flags, mode), path, flags, was_there);
}

int openat(int at, const char *path, int flags, ...) {
  MODE(flags)
  REAL(openat);
  int was_there = access(path, F_OK) == 0;
  return opened(real(at, path, flags, mode), path, flags, was_there);
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  char path[PATH_MAX];
  int ours = named(fd, path);
  off_t at = ours ? (fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR)) : 0;
  ssize_t done = real(fd, data, size);
  if (ours && done > 0) note('W', path, "", at, data, done);
  if (fd == 1 && log_fd >= 0 && done > 0) note('O', "", "", 0, data, done);
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  REAL(pwrite64);
  char path[PATH_MAX];
  int ours = named(fd, path);
  ssize_t done = real(fd, data, size, offset);
  if (ours && done > 0) note('W', path, "", offset, data, done);
  return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  char path[PATH_MAX];
  int ours = named(fd, path), done = real(fd, size);
  if (ours && !done) note('T', path, "", size, 0, 0);
  return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static void synced(int fd, int done) {
  char path[PATH_MAX];
  struct stat found;
  if (!done && named(fd, path)) note(fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) ? 'D' : 'S', path, "", 0, 0, 0);
}

int fsync(int fd) { REAL(fsync); int done = real(fd); synced(fd, done); return done; }
int fdatasync(int fd) { REAL(fdatasync); int done = real(fd); synced(fd, done); return done; }

static int unlinked(const char *path, int done) {
  char full[PATH_MAX];
  if (!done && in_full(path, full)) note('U', full, "", 0, 0, 0);
  return done;
}

int unlink(const char *path) { REAL(unlink); return unlinked(path, real(path)); }
int unlinkat(int at, const char *path, int flags) { REAL(unlinkat); return unlinked(path, real(at, path, flags)); }

static int moved(char what, const char *from, const char *to, int done) {
  char first[PATH_MAX], second[PATH_MAX];
  if (!done && in_full(from, first) && in_full(to, second)) note(what, first, second, 0, 0, 0);
  return done;
}

int link(const char *from, const char *to) { REAL(link); return moved('L', from, to, real(from, to)); }
int rename(const char *from, const char *to) { REAL(rename); return moved('R', from, to, real(from, to)); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(linkat);
  return moved('L', from, to, real(a, from, b, to, flags));
}

int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  return moved('R', from, to, real(a, from, b, to));
}
