/* A driver's library that tells of two GPUs, for machines that have none: what restage asks NVML, and nothing else. */

#include <stdio.h>
#include <string.h>

typedef int Status;
typedef struct {
    int index;
} *Device;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} Memory;

static struct {
    int index;
} devices[] = {{0}, {1}};

Status nvmlInit_v2(void) { return 0; }
Status nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return 0;
}
Status nvmlShutdown(void) { return 0; }

Status nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return 0;
}

Status nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    if (index > 1) return 2;
    *device = (Device)&devices[index];
    return 0;
}

Status nvmlDeviceGetUUID(Device device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%d%d", device->index, device->index);
    return 0;
}

Status nvmlDeviceGetName(Device device, char *name, unsigned length) {
    (void)device;
    snprintf(name, length, "Pretended");
    return 0;
}

Status nvmlDeviceGetMemoryInfo_v2(Device device, Memory *memory) {
    (void)device;
    memory->total = memory->free = 8ull << 30;
    memory->reserved = memory->used = 0;
    return 0;
}
