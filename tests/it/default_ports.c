/* Preloaded into every pitwire that a test starts: ends it when it connects to or binds an address
 * that is a default of the configuration. On a developer's PC another program may use that address:
 * a test server, or the developer's own agent. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check(const char *call, const struct sockaddr *address) {
    int port = 0;
    if (address != NULL && address->sa_family == AF_INET)
        port = ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (address != NULL && address->sa_family == AF_INET6)
        port = ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    static const int defaults[] = {DEFAULT_PORTS};
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        if (port == defaults[i]) {
            dprintf(2, "%s: %d is a default port; a test must name a free one\n", call, port);
            abort();
        }
    }
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    check("connect", address);
    return (int)syscall(SYS_connect, fd, address, length);
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    check("bind", address);
    return (int)syscall(SYS_bind, fd, address, length);
}
