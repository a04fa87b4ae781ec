/* Stands between a process and the C library: counts, records and spoils what is done to files of one folder.
 *
 * Loaded by LD_PRELOAD. The tests say by `interposer_arm` which call shall go wrong, and how.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_HANDLES 4096

enum { NOTHING, FULL, BROKEN, INTERRUPTED, SHORT, KILLED_BEFORE, KILLED_AFTER };

static char watched[4096];  /* files below this folder count */
static char *names[MAX_HANDLES];  /* of the open files there */
static long calls;
static long chosen = -1;
static int fault;
static int record = -1;  /* where the record goes */

void interposer_watch(const char *folder) { snprintf(watched, sizeof watched, "%s/", folder); }

void interposer_arm(int what, long call, int recorder) {
  calls = 0, chosen = call, fault = what, record = recorder;
}

long interposer_calls(void) { return calls; }

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void say(const void *text, size_t size) {
  if (record >= 0) (void)!syscall(SYS_write, record, text, size);
}

/* The path of a call that may be relative to an open folder, or NULL where it is not below the watched one. */
static const char *place(int folder, const char *path, char *room) {
  if (!watched[0] || !path) return NULL;
  if (path[0] != '/' && folder >= 0 && folder < MAX_HANDLES && names[folder]) {
    snprintf(room, 4096, "%s/%s", names[folder], path);
    return room;
  }
  size_t length = strlen(watched);
  if (!strncmp(path, watched, length)) return path;
  return strlen(path) == length - 1 && !strncmp(path, watched, length - 1) ? path : NULL;
}

static const char *name_of(int handle) {
  return handle >= 0 && handle < MAX_HANDLES ? names[handle] : NULL;
}

static void remember(int handle, const char *name) {
  if (handle < 0 || handle >= MAX_HANDLES) return;
  free(names[handle]);
  names[handle] = name ? strdup(name) : NULL;
}

/* Count a call. 0: go on; 1: it failed, errno is set; 2: die once it is done; 3: do half of it; 4: half, then die. */
static int meet(int takes_room) {
  long call = calls++;
  if (chosen < 0 || call < chosen) return 0;
  if (fault == FULL) {  /* and full it stays */
    if (!takes_room) return 0;
    errno = ENOSPC;
    return 1;
  }
  if (call > chosen) return 0;
  switch (fault) {
    case BROKEN: errno = EIO; return 1;
    case INTERRUPTED: errno = EINTR; return 1;
    case SHORT: return 3;
    case KILLED_BEFORE: kill(getpid(), SIGKILL); return 0;
    case KILLED_AFTER: return takes_room == 2 ? 4 : 2;
  }
  return 0;
}

static void die_if(int met) {
  if (met == 2 || met == 4) kill(getpid(), SIGKILL);
}

static void note(const char *what, const char *path, const char *other) {
  char line[9000];
  int size = snprintf(line, sizeof line, "%s\t%s\t%s\t0\t0\n", what, path, other ? other : "");
  say(line, (size_t)size);
}

#define OPEN(name, parameters, folder, call)                                                        \
  int name parameters {                                                                             \
    REAL(name);                                                                                     \
    mode_t mode = 0;                                                                                \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                            \
      va_list rest;                                                                                 \
      va_start(rest, flags);                                                                        \
      mode = va_arg(rest, mode_t);                                                                  \
      va_end(rest);                                                                                 \
    }                                                                                               \
    char room[4096];                                                                                \
    const char *where = place(folder, path, room);                                                  \
    if (!where) {                                                                                   \
      int handle = call;                                                                            \
      remember(handle, NULL);                                                                       \
      return handle;                                                                                \
    }                                                                                               \
    int is_new = (flags & O_CREAT) && access(where, F_OK) != 0;                                     \
    int met = meet(is_new);                                                                         \
    if (met == 1) return -1;                                                                        \
    int handle = call;                                                                              \
    die_if(met);                                                                                    \
    remember(handle, where);                                                                        \
    if (handle >= 0 && is_new) note("create", where, NULL);                                         \
    if (handle >= 0 && !is_new && (flags & O_TRUNC)) note("truncate", where, NULL);                 \
    return handle;                                                                                  \
  }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))

int close(int handle) {
  REAL(close);
  remember(handle, NULL);
  return real(handle);
}

ssize_t write(int handle, const void *data, size_t size) {
  REAL(write);
  const char *name = name_of(handle);
  if (!name) return real(handle, data, size);
  int met = meet(2);
  if (met == 1) return -1;
  if (met >= 3 && size > 1) size /= 2;
  ssize_t done = real(handle, data, size);
  die_if(met);
  if (done > 0 && record >= 0) {
    char line[5000];
    long end = lseek(handle, 0, SEEK_CUR);
    int length = snprintf(line, sizeof line, "write\t%s\t\t%ld\t%zd\n", name, end - (long)done, done);
    say(line, (size_t)length);
    say(data, (size_t)done);
  }
  return done;
}

ssize_t read(int handle, void *data, size_t size) {
  REAL(read);
  if (!name_of(handle)) return real(handle, data, size);
  int met = meet(0);
  if (met == 1) return -1;
  if (met == 3 && size > 1) size /= 2;
  ssize_t done = real(handle, data, size);
  die_if(met);
  return done;
}

#define ON_HANDLE(name)                                  \
  int name(int handle) {                                 \
    REAL(name);                                          \
    const char *where = name_of(handle);                 \
    if (!where) return real(handle);                     \
    int met = meet(0);                                   \
    if (met == 1) return -1;                             \
    int done = real(handle);                             \
    die_if(met);                                         \
    if (!done) note("fsync", where, NULL);               \
    return done;                                         \
  }

ON_HANDLE(fsync)
ON_HANDLE(fdatasync)

#define ON_PATH(name, parameters, folder, takes_room, call, what)            \
  int name parameters {                                                      \
    REAL(name);                                                              \
    char room[4096];                                                         \
    const char *where = place(folder, path, room);                           \
    if (!where) return call;                                                 \
    int met = meet(takes_room);                                              \
    if (met == 1) return -1;                                                 \
    int done = call;                                                         \
    die_if(met);                                                             \
    if (!done) note(what, where, NULL);                                      \
    return done;                                                             \
  }

ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, 1, real(path, mode), "mkdir")
ON_PATH(unlink, (const char *path), AT_FDCWD, 0, real(path), "unlink")
ON_PATH(rmdir, (const char *path), AT_FDCWD, 0, real(path), "rmdir")
ON_PATH(unlinkat, (int folder, const char *path, int flags), folder, 0, real(folder, path, flags),
        flags & AT_REMOVEDIR ? "rmdir" : "unlink")
ON_PATH(chmod, (const char *path, mode_t mode), AT_FDCWD, 0, real(path, mode), "chmod")

int rename(const char *path, const char *other) {
  REAL(rename);
  char room[4096];
  const char *where = place(AT_FDCWD, path, room);
  if (!where) return real(path, other);
  int met = meet(0);
  if (met == 1) return -1;
  int done = real(path, other);
  die_if(met);
  if (!done) note("rename", where, other);
  return done;
}
