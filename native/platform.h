/* The little that C11 leaves to the platform: threads, and two atomic operations on an int. */
#ifndef PPEDGE_PLATFORM_H
#define PPEDGE_PLATFORM_H

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

typedef HANDLE ppedge_thread;
#define PPEDGE_THREAD_BODY(name, argument) static DWORD WINAPI name(void *argument)
#define PPEDGE_THREAD_END return 0

static inline int ppedge_thread_start(ppedge_thread *thread, LPTHREAD_START_ROUTINE body,
                                      void *argument) {
    *thread = CreateThread(NULL, 0, body, argument, 0, NULL);
    return *thread == NULL ? -1 : 0;
}

static inline void ppedge_thread_join(ppedge_thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

typedef volatile LONG ppedge_atomic_int;
static inline int ppedge_atomic_next(ppedge_atomic_int *x) { return InterlockedIncrement(x) - 1; }
static inline int ppedge_atomic_load(ppedge_atomic_int *x) { return InterlockedOr(x, 0); }
static inline void ppedge_atomic_store(ppedge_atomic_int *x, int to) { InterlockedExchange(x, to); }

#else
#include <pthread.h>
#include <stdatomic.h>

typedef pthread_t ppedge_thread;
#define PPEDGE_THREAD_BODY(name, argument) static void *name(void *argument)
#define PPEDGE_THREAD_END return NULL

static inline int ppedge_thread_start(ppedge_thread *thread, void *(*body)(void *),
                                      void *argument) {
    return pthread_create(thread, NULL, body, argument);
}

static inline void ppedge_thread_join(ppedge_thread thread) { pthread_join(thread, NULL); }

typedef atomic_int ppedge_atomic_int;
static inline int ppedge_atomic_next(ppedge_atomic_int *x) { return atomic_fetch_add(x, 1); }
static inline int ppedge_atomic_load(ppedge_atomic_int *x) { return atomic_load(x); }
static inline void ppedge_atomic_store(ppedge_atomic_int *x, int to) { atomic_store(x, to); }
#endif

#endif
