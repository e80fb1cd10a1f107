/* The one function of bcryptprimitives.dll that Rust's standard library needs and Wine 8.0 lacks.
 * Only for the prefix of tests/windows.sh: Windows has its own. */
unsigned char __stdcall SystemFunction036(void *buffer, unsigned long length);

__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *buffer, unsigned long long length) {
    while (length > 0) {
        unsigned long part = length < 0x40000000 ? (unsigned long)length : 0x40000000;
        if (!SystemFunction036(buffer, part)) {
            return 0;
        }
        buffer += part;
        length -= part;
    }
    return 1;
}
