// A pretended driver, cuBLAS and NVRTC, as far as this plugin calls NVIDIA's: so that its kernels are tested where there is no card, on
// the CPU. Linked three times, under the three libraries' names. It computes what a card would, thread by thread, and is stricter: memory that
// was not written is NaN, and who reads or writes beyond a buffer's end dies. It knows nothing of speed, nor of two streams.
//
// A kernel's threads are coroutines that switch at `__syncthreads`, in one order and then in the other, so that a barrier that is
// missing shows.

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

enum Status { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

// --- memory: each piece ends where a page does that nobody may touch ---

static const size_t PAGE = 4096;
static const size_t MEMORY = size_t(1) << 34;

static std::mutex lock;
static std::map<char *, std::pair<char *, size_t>> pieces;

static Status allocate(void **at, size_t bytes) {
    // As on a card.
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > MEMORY) return OUT_OF_MEMORY;
    size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    char *map = (char *)mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(map + room, PAGE, PROT_NONE);
    char *piece = map + room - bytes;
    memset(piece, 0xff, bytes);
    std::lock_guard<std::mutex> held(lock);
    pieces[piece] = {map, room + PAGE};
    *at = piece;
    return SUCCESS;
}

static Status give_back(void *at) {
    std::lock_guard<std::mutex> held(lock);
    auto piece = pieces.find((char *)at);
    if (piece == pieces.end()) return INVALID_VALUE;
    munmap(piece->second.first, piece->second.second);
    pieces.erase(piece);
    return SUCCESS;
}

// --- kernels ---

struct Three { unsigned x, y, z; };

struct Module {
    void *library;
    Three *thread, *block, *threads, *blocks;
};

struct Function {
    Module *module;
    void (*call)(void **);
    bool has_barriers;
};

static const size_t STACK = 64 * 1024;

struct Coroutine {
    std::vector<char> stack = std::vector<char>(STACK);
    ucontext_t start;
    jmp_buf place;
    Three thread;
    bool begun, ended;
};

static std::mutex running;
static std::vector<Coroutine> coroutines;
static Coroutine *current;
static jmp_buf scheduler;
static Function *function;
static void **arguments;
static bool met_barrier;

static void barrier() {
    met_barrier = true;
    if (!current) {
        fprintf(stderr, "a barrier that only some launches reach\n");
        abort();
    }
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
    *function->module->thread = current->thread;
}

static void body() {
    function->call(arguments);
    current->ended = true;
    _longjmp(scheduler, 1);
}

static void advance(Coroutine &coroutine) {
    current = &coroutine;
    *function->module->thread = coroutine.thread;
    if (_setjmp(scheduler)) return;
    if (coroutine.begun) _longjmp(coroutine.place, 1);
    coroutine.begun = true;
    setcontext(&coroutine.start);
}

static void run_block(Three threads) {
    size_t count = size_t(threads.x) * threads.y * threads.z;
    auto thread = [&](size_t i) {
        return Three{unsigned(i % threads.x), unsigned(i / threads.x % threads.y), unsigned(i / threads.x / threads.y)};
    };
    if (!function->has_barriers) {
        current = nullptr;
        for (size_t i = 0; i < count; i++) {
            *function->module->thread = thread(i);
            function->call(arguments);
        }
        return;
    }
    if (coroutines.size() < count) coroutines = std::vector<Coroutine>(count);
    for (size_t i = 0; i < count; i++) {
        Coroutine &coroutine = coroutines[i];
        coroutine.thread = thread(i);
        coroutine.begun = coroutine.ended = false;
        getcontext(&coroutine.start);
        coroutine.start.uc_stack.ss_sp = coroutine.stack.data();
        coroutine.start.uc_stack.ss_size = STACK;
        makecontext(&coroutine.start, body, 0);
    }
    bool forward = true;
    for (size_t left = count; left > 0; forward = !forward) {
        left = 0;
        for (size_t i = 0; i < count; i++) {
            Coroutine &coroutine = coroutines[forward ? i : count - 1 - i];
            if (!coroutine.ended) advance(coroutine);
            left += !coroutine.ended;
        }
    }
}

static void launch(Function *which, Three blocks, Three threads, void **params) {
    std::lock_guard<std::mutex> held(running);
    function = which;
    arguments = params;
    *function->module->threads = threads;
    *function->module->blocks = blocks;
    met_barrier = false;
    size_t count = size_t(blocks.x) * blocks.y * blocks.z;
    for (size_t i = 0; i < count; i++) {
        size_t b = count - 1 - i;
        *function->module->block =
            Three{unsigned(b % blocks.x), unsigned(b / blocks.x % blocks.y), unsigned(b / blocks.x / blocks.y)};
        run_block(threads);
        if (i == 0) function->has_barriers = met_barrier;
    }
}

template <typename T> static T *symbol(void *library, const char *name) {
    return (T *)dlsym(library, name);
}

// --- the driver ---

extern "C" {
Status cuInit(unsigned) { return SUCCESS; }
Status cuDeviceGet(int *device, int number) {
    *device = number;
    return SUCCESS;
}
Status cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}
Status cuDeviceGetName(char *name, int length, int) {
    snprintf(name, length, "no card, but a CPU in its place");
    return SUCCESS;
}
Status cuDeviceGetAttribute(int *value, int, int) {
    *value = 1;
    return SUCCESS;
}
Status cuDevicePrimaryCtxRetain(void **context, int) {
    *context = (void *)1;
    return SUCCESS;
}
Status cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Status cuCtxGetCurrent(void **context) {
    *context = (void *)1;
    return SUCCESS;
}
Status cuCtxSetCurrent(void *) { return SUCCESS; }
Status cuCtxSynchronize() { return SUCCESS; }
Status cuDeviceGetDefaultMemPool(void **pool, int) {
    *pool = (void *)1;
    return SUCCESS;
}
Status cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
Status cuMemAllocAsync(void **at, size_t bytes, void *) { return allocate(at, bytes); }
Status cuMemAlloc_v2(void **at, size_t bytes) { return allocate(at, bytes); }
Status cuMemFreeAsync(void *at, void *) { return give_back(at); }
Status cuMemFree_v2(void *at) { return give_back(at); }
Status cuMemHostAlloc(void **at, size_t bytes, unsigned) { return allocate(at, bytes); }
Status cuMemFreeHost(void *at) { return give_back(at); }
Status cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *) {
    memcpy(to, from, bytes);
    return SUCCESS;
}
Status cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *) {
    memcpy(to, from, bytes);
    return SUCCESS;
}
Status cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *) {
    memcpy(to, from, bytes);
    return SUCCESS;
}
Status cuMemsetD8Async(void *at, unsigned char value, size_t bytes, void *) {
    memset(at, value, bytes);
    return SUCCESS;
}
Status cuEventCreate(void **event, unsigned) {
    *event = (void *)1;
    return SUCCESS;
}
Status cuEventRecord(void *, void *) { return SUCCESS; }
Status cuEventSynchronize(void *) { return SUCCESS; }
Status cuEventDestroy_v2(void *) { return SUCCESS; }
Status cuStreamSynchronize(void *) { return SUCCESS; }
Status cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }

Status cuModuleLoadData(void **to, const void *path) {
    void *library = dlopen((const char *)path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return INVALID_VALUE;
    }
    *symbol<void (*)()>(library, "barrier") = barrier;
    auto three = [&](const char *name) { return symbol<Three>(library, name); };
    *to = new Module{library, three("threadIdx"), three("blockIdx"), three("blockDim"), three("gridDim")};
    return SUCCESS;
}
Status cuModuleGetFunction(void **to, Module *module, const char *name) {
    void *call = dlsym(module->library, (std::string("call_") + name).c_str());
    if (!call) return NOT_FOUND;
    *to = new Function{module, (void (*)(void **))call, true};
    return SUCCESS;
}
Status cuModuleUnload(Module *) { return SUCCESS; }
Status cuLaunchKernel(
    Function *which, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz, unsigned, void *, void **params,
    void **
) {
    // As on a card.
    if (size_t(tx) * ty * tz > 1024 || !bx || !by || !bz || !tx || by > 65535 || bz > 65535) return INVALID_VALUE;
    launch(which, {bx, by, bz}, {tx, ty, tz}, params);
    return SUCCESS;
}
Status cuGetErrorName(Status error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
Status cuGetErrorString(Status error, const char **words) { return cuGetErrorName(error, words); }

// --- cuBLAS: columns lie together ---

int cublasCreate_v2(void **handle) {
    *handle = (void *)1;
    return 0;
}
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasSgemm_v2(
    void *, int a_is, int b_is, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
    const float *beta, float *c, int ldc
) {
    std::vector<float> column(m), turned;
    if (a_is) {
        turned.resize(size_t(m) * k);
        for (int i = 0; i < m; i++)
            for (int l = 0; l < k; l++) turned[i + size_t(l) * m] = a[l + size_t(i) * lda];
        a = turned.data();
        lda = m;
    }
    for (int j = 0; j < n; j++) {
        std::fill(column.begin(), column.end(), 0.0f);
        for (int l = 0; l < k; l++) {
            float factor = b_is ? b[j + size_t(l) * ldb] : b[l + size_t(j) * ldb];
            const float *of_a = a + size_t(l) * lda;
            for (int i = 0; i < m; i++) column[i] += factor * of_a[i];
        }
        for (int i = 0; i < m; i++) {
            float &sum = c[i + size_t(j) * ldc];
            sum = *alpha * column[i] + (*beta == 0.0f ? 0.0f : *beta * sum);
        }
    }
    return 0;
}
int cublasSgemmStridedBatched(
    void *handle, int a_is, int b_is, int m, int n, int k, const float *alpha, const float *a, int lda, long long a_step,
    const float *b, int ldb, long long b_step, const float *beta, float *c, int ldc, long long c_step, int count
) {
    for (long long i = 0; i < count; i++)
        cublasSgemm_v2(
            handle, a_is, b_is, m, n, k, alpha, a + i * a_step, lda, b + i * b_step, ldb, beta, c + i * c_step, ldc
        );
    return 0;
}

// --- NVRTC: the system's compiler; what it calls PTX is the path of a library ---

struct Program {
    std::string source, path, log;
};

int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char **, const char **) {
    *program = new Program{source, "", ""};
    return 0;
}
int nvrtcDestroyProgram(Program **program) {
    delete *program;
    return 0;
}
int nvrtcCompileProgram(Program *program, int, const char **) {
    char folder[] = "/tmp/stand-in-XXXXXX";
    if (!mkdtemp(folder)) return 6;
    std::string base = std::string(folder) + "/kernels";
    program->path = base + ".so";
    std::ofstream out(base + ".cpp");
    out << R"(
#include <cmath>
#include <cstddef>
#include <utility>
#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() barrier()
struct dim3 { unsigned x, y, z; };
struct float4 { float x = 0, y = 0, z = 0, w = 0; };
extern "C" {
void (*barrier)();
dim3 threadIdx, blockIdx, blockDim, gridDim;
}
using std::sqrt;
static float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <typename A, typename B> static auto min(A a, B b) { return a < b ? a : b; }
template <typename... A, size_t... I> static void apply(void (*kernel)(A...), void **at, std::index_sequence<I...>) {
    kernel(*(A *)at[I]...);
}
template <typename... A> static void call(void (*kernel)(A...), void **at) {
    apply(kernel, at, std::index_sequence_for<A...>());
}
)" << program->source
        << "\n";
    std::regex kernel("extern \"C\" __global__ void (\\w+)");
    for (std::sregex_iterator it(program->source.begin(), program->source.end(), kernel), end; it != end; ++it)
        out << "extern \"C\" void call_" << (*it)[1] << "(void **at) { call(" << (*it)[1] << ", at); }\n";
    out.close();
    std::string command = "c++ -std=c++17 -O2 -shared -fPIC -w -o " + program->path + " " + base + ".cpp 2> " + base + ".log";
    int failed = system(command.c_str());
    std::stringstream log;
    log << std::ifstream(base + ".log").rdbuf();
    program->log = log.str();
    return failed ? 6 : 0;
}
int nvrtcGetPTXSize(Program *program, size_t *size) {
    *size = program->path.size() + 1;
    return 0;
}
int nvrtcGetPTX(Program *program, char *ptx) {
    strcpy(ptx, program->path.c_str());
    return 0;
}
int nvrtcGetProgramLogSize(Program *program, size_t *size) {
    *size = program->log.size() + 1;
    return 0;
}
int nvrtcGetProgramLog(Program *program, char *log) {
    strcpy(log, program->log.c_str());
    return 0;
}
}
