/* Attempts that need system calls bare: io_uring, sendmmsg, the 32-bit entry. Prints one line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SOCKET_URING_OP_SETSOCKOPT
#define SOCKET_URING_OP_SETSOCKOPT 3
#endif

static struct io_uring_params p;
static int ring;
static unsigned char *sq, *cq;
static struct io_uring_sqe *sqes;

static int fail(long error) {
    printf("{\"pid\": %d, \"errno\": %ld}\n", getpid(), error);
    return 0;
}

static int ok(const char *json) {
    printf("{\"pid\": %d, \"ok\": %s}\n", getpid(), json);
    return 0;
}

static long open_ring(unsigned flags) {
    p.flags = flags;
    ring = syscall(SYS_io_uring_setup, 4, &p);
    if (ring < 0) return -errno;
    sq = mmap(0, p.sq_off.array + p.sq_entries * 4, 3, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), 3, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    sqes = mmap(0, p.sq_entries * sizeof *sqes, 3, MAP_SHARED, ring, IORING_OFF_SQES);
    return 0;
}

/* Submits one entry and waits for its result. */
static long submit(struct io_uring_sqe entry) {
    unsigned *tail = (unsigned *)(sq + p.sq_off.tail), index = *tail & *(unsigned *)(sq + p.sq_off.ring_mask);
    sqes[index] = entry;
    ((unsigned *)(sq + p.sq_off.array))[index] = index;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_SEQ_CST);
    unsigned flags = IORING_ENTER_GETEVENTS;
    if (__atomic_load_n((unsigned *)(sq + p.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
        flags |= IORING_ENTER_SQ_WAKEUP;
    if (syscall(SYS_io_uring_enter, ring, 1, 1, flags, 0, 0) < 0) return -errno;
    unsigned *head = (unsigned *)(cq + p.cq_off.head);
    while (__atomic_load_n((unsigned *)(cq + p.cq_off.tail), __ATOMIC_ACQUIRE) == *head) usleep(1000);
    struct io_uring_cqe *cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    long result = cqes[*head & *(unsigned *)(cq + p.cq_off.ring_mask)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static struct sockaddr_in far(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "10.99.0.2", &a.sin_addr);
    return a;
}

static int said(int fd) {
    char text[2048] = "";
    size_t length = 0;
    for (long n; length < sizeof text - 1 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0;) length += n;
    char *end = strchr(text, '\n');
    if (end) *end = 0;
    return ok(*text ? text : "\"\"");
}

static long uring_socket_of(int family, int type, int entry_flags) {
    struct io_uring_sqe s = {.opcode = IORING_OP_SOCKET, .fd = family, .off = type, .flags = entry_flags};
    return submit(s);
}

static long uring_socket(int type, int entry_flags) {
    return uring_socket_of(AF_INET, type, entry_flags);
}

/* A socket of a family that no hook of the internet's sees. */
static int uring_family(int family, int type) {
    long r = open_ring(0);
    if (r < 0) return fail(-r);
    r = uring_socket_of(family, type, 0);
    return r < 0 ? fail(-r) : ok("\"created\"");
}

static int uring_tcp(unsigned ring_flags, int entry_flags) {
    long r = open_ring(ring_flags);
    if (r < 0) return fail(-r);
    long fd = uring_socket(SOCK_STREAM, entry_flags);
    if (fd < 0) return fail(-fd);
    struct sockaddr_in to = far(7000);
    struct io_uring_sqe s = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (__u64)&to, .off = sizeof to, .flags = entry_flags};
    r = submit(s);
    return r < 0 ? fail(-r) : said(fd);
}

static int uring_udp(void) {
    long r = open_ring(0);
    if (r < 0) return fail(-r);
    struct sockaddr_in to = far(9999);
    struct iovec part = {"x", 1};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1};
    long fd = uring_socket(SOCK_DGRAM, 0);
    if (fd < 0) return fail(-fd);
    struct io_uring_sqe s = {.opcode = IORING_OP_SENDMSG, .fd = fd, .addr = (__u64)&m, .len = 1};
    r = submit(s);
    return r < 0 ? fail(-r) : ok("1");
}

/* IP_OPTIONS through io_uring's own way to set socket options. */
static int uring_option(void) {
    long r = open_ring(0);
    if (r < 0) return fail(-r);
    static unsigned char route[] = {131, 7, 4, 10, 99, 0, 2, 0};
    struct io_uring_sqe s = {.opcode = IORING_OP_URING_CMD, .fd = socket(AF_INET, SOCK_STREAM, 0)};
    s.cmd_op = SOCKET_URING_OP_SETSOCKOPT;
    ((__u32 *)&s.addr)[0] = 0;
    ((__u32 *)&s.addr)[1] = 4;
    s.file_index = sizeof route;
    *(__u64 *)((char *)&s + 48) = (__u64)route;
    r = submit(s);
    return r < 0 ? fail(-r) : ok("1");
}

static int many(void) {
    struct sockaddr_in to = far(9999);
    struct iovec part = {"x", 1};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1}}};
    m[1] = m[0];
    return sendmmsg(socket(AF_INET, SOCK_DGRAM, 0), m, 2, 0) < 0 ? fail(errno) : ok("1");
}

/* The 32-bit entry: int 0x80, numbers of i386. */
static long entry32(long number, long a, long b, long c) {
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return (int)r;
}

static int connect32(void) {
    struct sockaddr_in *to = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    *to = far(7000);
    long fd = entry32(359, AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return fail(-fd);
    long r = entry32(362, fd, (long)to, sizeof *to);
    return r < 0 ? fail(-r) : said(fd);
}

static int packet(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(3));
    return fd < 0 ? fail(errno) : ok("\"created\"");
}

static int plain(void) {
    struct sockaddr_in to = far(7000);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) return fail(errno);
    return said(fd);
}

int main(int argc, char **argv) {
    alarm(10);
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "uring")) return uring_tcp(0, 0);
    if (!strcmp(what, "uring-async")) return uring_tcp(0, IOSQE_ASYNC);
    if (!strcmp(what, "uring-sqpoll")) return uring_tcp(IORING_SETUP_SQPOLL, 0);
    if (!strcmp(what, "uring-vsock")) return uring_family(AF_VSOCK, SOCK_STREAM);
    if (!strcmp(what, "uring-packet")) return uring_family(AF_PACKET, SOCK_RAW);
    if (!strcmp(what, "uring-udp")) return uring_udp();
    if (!strcmp(what, "uring-option")) return uring_option();
    if (!strcmp(what, "sendmmsg")) return many();
    if (!strcmp(what, "connect32")) return connect32();
    if (!strcmp(what, "packet")) return packet();
    if (!strcmp(what, "connect")) return plain();
    return 2;
}
