/* A library that takes connect(2) from the program that loads it, and makes the system call by itself. */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    return syscall(SYS_connect, fd, address, length);
}
