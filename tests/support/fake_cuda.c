/* A driver that answers what metaqap_fast.engine.cuda asks, and nothing else: one H100, on which nothing runs.
   With FAKE_CUDA_CAPABILITY it is another GPU; with FAKE_CUDA_GONE the device has vanished. CUDA_VISIBLE_DEVICES may
   name the GPU, a slice of it, or what does not exist, by the beginning of a UUID. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *uuid, *name; size_t memory; } DEVICES[] = {
    {"GPU-00000000-0000-0000-0000-000000000001", "NVIDIA H100 80GB HBM3", 85000000000ULL},
    {"MIG-00000000-0000-0000-0000-000000000002", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10000000000ULL},
};

static int gone(void) { return getenv("FAKE_CUDA_GONE") ? 999 : 0; }
static int capability(void) {
    const char *text = getenv("FAKE_CUDA_CAPABILITY");
    return text ? atoi(text) : 90;
}
static int shown(void) { /* number of the device, -1 for none */
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible || !strcmp(visible, "0")) return 0;
    for (int i = 0; i < 2; i++)
        if (*visible && !strncmp(DEVICES[i].uuid, visible, strlen(visible))) return i;
    return -1;
}

int cuInit(unsigned flags) { return shown() < 0 ? 100 : gone(); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = shown() >= 0; return gone(); }
int cuDeviceGet(int *device, int index) { *device = 7 + index; return gone(); }
int cuDeviceGetName(char *name, int length, int device) {
    if (device != 7) return 101;
    strncpy(name, DEVICES[shown()].name, length);
    return gone();
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = DEVICES[shown()].memory; return device == 7 ? gone() : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capability() / 10 : attribute == 76 ? capability() % 10 : -1;
    return gone();
}
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = 1 + shown();
    return device == 7 ? gone() : 101;
}
