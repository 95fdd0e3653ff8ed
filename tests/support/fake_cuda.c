/* A driver that answers what metaqap_fast.engine.cuda asks, and nothing else: one H100, on which nothing runs.
   With FAKE_CUDA_CAPABILITY it is another GPU; with FAKE_CUDA_GONE the device has vanished. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int gone(void) { return getenv("FAKE_CUDA_GONE") ? 999 : 0; }
static int capability(void) {
    const char *text = getenv("FAKE_CUDA_CAPABILITY");
    return text ? atoi(text) : 90;
}

int cuInit(unsigned flags) { return gone(); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return gone(); }
int cuDeviceGet(int *device, int index) { *device = 7 + index; return gone(); }
int cuDeviceGetName(char *name, int length, int device) {
    if (device != 7) return 101;
    strncpy(name, "NVIDIA H100 80GB HBM3", length);
    return gone();
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 85000000000ULL; return device == 7 ? gone() : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capability() / 10 : attribute == 76 ? capability() % 10 : -1;
    return gone();
}
