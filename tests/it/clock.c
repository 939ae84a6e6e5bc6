// A clock that fails, once, on a worker: nothing else that a test can do to the built binary makes code panic which
// serves a connection. The wall clock is read there and nowhere else in a worker.

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    char thread[16] = "";
    const char *once = getenv("CLOCK_FAILS_WITH"); // a file; it is gone when the clock has failed
    prctl(PR_GET_NAME, thread);
    if (clock == CLOCK_REALTIME && once && !strncmp(thread, "worker-", 7) && unlink(once) == 0) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_clock_gettime, clock, time);
}
