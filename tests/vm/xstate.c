/*
 * Lets user-mode-linux up to 6.12 run where the processor has more state than it knows (AMX).
 *
 * It keeps 2696 bytes of a process's registers, which is up to AVX-512 and PKU. The host takes registers
 * back only as a whole (PTRACE_SETREGSET with NT_X86_XSTATE is EFAULT for any other size), so on a
 * processor with AMX, 11 KiB, no guest gets beyond its first program. Loaded before the C library, this
 * ptrace() puts what the guest knows over what the host has and gives all of it back. Newer kernels
 * ask the host for the size; for them, and where the sizes are the same, nothing changes.
 */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

enum { WHOLE_MAX = 64 * 1024 };

static long call(long request, long pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static long set_all(long pid, void *address, struct iovec *known)
{
	static __thread char whole[WHOLE_MAX];
	struct iovec all = { whole, sizeof whole };

	if (call(PTRACE_GETREGSET, pid, address, &all) < 0)
		return -1;
	if (known->iov_len > all.iov_len) {
		errno = EFAULT;
		return -1;
	}
	memcpy(whole, known->iov_base, known->iov_len);
	return call(PTRACE_SETREGSET, pid, address, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list rest;
	va_start(rest, request);
	long pid = va_arg(rest, int);
	void *address = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	long peeked;
	switch ((long)request) {
	case PTRACE_SETREGSET:
		if ((long)address == NT_X86_XSTATE) {
			long result = call(request, pid, address, data);
			if (result == 0 || errno != EFAULT)
				return result;
			return set_all(pid, address, data);
		}
		break;
	case PTRACE_PEEKTEXT: /* the system call puts there what the C library gives back */
	case PTRACE_PEEKDATA:
	case PTRACE_PEEKUSER:
		if (call(request, pid, address, &peeked) < 0)
			return -1;
		errno = 0;
		return peeked;
	}
	return call(request, pid, address, data);
}
