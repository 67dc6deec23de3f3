/* A client from docs/wire-format.md alone: client HOST PORT NUMBER..., a line an image. */
#define _GNU_SOURCE /* strcasestr */
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int give_up(const char *why) {
    fprintf(stderr, "%s\n", why);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) return give_up("usage: client HOST PORT NUMBER...");
    size_t n = argc - 3, packed_bytes = (n + 1) / 2, room = 65536 + 16 * n, got = 0, need = room;
    uint8_t *packed = calloc(packed_bytes, 1), *body = NULL;
    char *answer = malloc(room + 1), *end, *length;
    if (!packed || !answer) return give_up("no memory");

    for (size_t i = 0; i < n; i++) packed[i / 2] |= atoi(argv[i + 3]) << (i % 2 ? 0 : 4);

    struct addrinfo *address, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(argv[1], argv[2], &hints, &address)) return give_up("unknown host");
    int server = socket(address->ai_family, address->ai_socktype, 0);
    if (server < 0 || connect(server, address->ai_addr, address->ai_addrlen))
        return give_up("cannot connect");
    dprintf(server,
            "POST /predictions/diagonal_flip HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n"
            "Content-Type: application/octet-stream%s\r\n\r\n",
            argv[1], packed_bytes, n % 2 ? "; padding=4" : "");
    for (ssize_t sent = 0, part; sent < (ssize_t)packed_bytes; sent += part)
        if ((part = write(server, packed + sent, packed_bytes - sent)) <= 0)
            return give_up("cannot send");

    /* Not until the connection ends: TorchServe keeps it, even after Connection: close. */
    for (ssize_t part; got < need && (part = read(server, answer + got, need - got)) > 0;) {
        answer[got += part] = 0;
        if (body || !(end = strstr(answer, "\r\n\r\n"))) continue;
        body = (uint8_t *)end + 4;
        length = strcasestr(answer, "\r\ncontent-length:");
        need = body - (uint8_t *)answer + (length && length < end ? atol(length + 17) : 0);
        if (need > room) return give_up("a longer answer than promised");
    }
    if (!body || strncmp(answer, "HTTP/1.1 200 ", 13)) return give_up(body ? answer : "no answer");
    if (answer + got != (char *)body + 16 * n) return give_up("not 16 bytes an image");

    for (size_t i = 0; i < 4 * n; i++, body += 4) {
        uint32_t bits = body[0] | body[1] << 8 | body[2] << 16 | (uint32_t)body[3] << 24;
        float pixel;
        memcpy(&pixel, &bits, 4);
        printf("%.6f%c", pixel, i % 4 == 3 ? '\n' : ' ');
    }
    return 0;
}
