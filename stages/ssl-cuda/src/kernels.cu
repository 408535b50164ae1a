// What networks need on a GPU besides products of matrices. Images lie as on the CPU: item, row, column, channel.
//
// Every sum is made in an order that depends on sizes only, and no kernel uses atomics: the same inputs give the same bytes, run after
// run. Names are those of `kernels.rs`, which says how each is launched.

#define EPSILON 1e-5f

typedef unsigned int u32;
typedef unsigned long long u64;

__device__ static inline u64 thread_id() {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

// The sum over a block of 256 threads or fewer, a power of two, given to all of them.
__device__ static float block_sum(float value) {
    __shared__ float sums[256];
    sums[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    float sum = sums[0];
    __syncthreads();
    return sum;
}

__device__ static float block_max(float value) {
    __shared__ float most[256];
    most[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) most[threadIdx.x] = fmaxf(most[threadIdx.x], most[threadIdx.x + half]);
        __syncthreads();
    }
    float result = most[0];
    __syncthreads();
    return result;
}

// --- plain ---

extern "C" __global__ void add(float *sum, const float *other, u64 count) {
    u64 i = thread_id();
    if (i < count) sum[i] += other[i];
}

extern "C" __global__ void scale(float *values, float by, u64 count) {
    u64 i = thread_id();
    if (i < count) values[i] *= by;
}

// Sets values to 0 where `kept` is 0; whatever they were, NaN too.
extern "C" __global__ void mask(float *values, const float *kept, u64 count) {
    u64 i = thread_id();
    if (i < count && kept[i] == 0.0f) values[i] = 0.0f;
}

// Every row of `rows` is `row`.
extern "C" __global__ void repeat(float *rows, const float *row, u32 columns, u64 count) {
    u64 i = thread_id();
    if (i < count) rows[i] = row[i % columns];
}

extern "C" __global__ void relu(float *y, const float *x, u64 count) {
    u64 i = thread_id();
    if (i < count) y[i] = fmaxf(x[i], 0.0f);
}

// `dx` may be `dy`.
extern "C" __global__ void relu_back(float *dx, const float *dy, const float *y, u64 count) {
    u64 i = thread_id();
    if (i < count) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

extern "C" __global__ void gelu(float *y, const float *x, u64 count) {
    u64 i = thread_id();
    if (i < count) y[i] = x[i] * 0.5f * (1.0f + erff(x[i] * 0.70710678f));
}

extern "C" __global__ void gelu_back(float *dx, const float *dy, const float *x, u64 count) {
    u64 i = thread_id();
    if (i < count) {
        float v = x[i];
        float phi = 0.5f * (1.0f + erff(v * 0.70710678f));
        dx[i] = dy[i] * (phi + v * expf(-0.5f * v * v) * 0.39894228f);
    }
}

// Sums of columns, in two steps: blocks of 32 columns x 8 rows take `chunk` rows each; then parts are added up.
extern "C" __global__ void column_parts(float *parts, const float *x, u32 rows, u32 columns, u32 chunk) {
    __shared__ float sums[8][33];
    u32 column = blockIdx.x * 32 + threadIdx.x;
    u32 first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float sum = 0.0f;
    if (column < columns)
        for (u32 row = first + threadIdx.y; row < last; row += 8) sum += x[(u64)row * columns + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (u32 lane = 1; lane < 8; lane++) sum += sums[lane][threadIdx.x];
        parts[(u64)blockIdx.y * columns + column] = sum;
    }
}

// Blocks of 32 columns x 8 lanes.
extern "C" __global__ void add_parts(float *sums, const float *parts, u32 count, u32 columns) {
    __shared__ float lanes[8][33];
    u32 column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (u32 part = threadIdx.y; part < count; part += 8) sum += parts[(u64)part * columns + column];
    lanes[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (u32 lane = 1; lane < 8; lane++) sum += lanes[lane][threadIdx.x];
        sums[column] += sum;
    }
}

// --- convolution, as a product with the matrix of windows ---

struct Windows {
    u32 height, width, channels, side, stride, padding, out_height, out_width;
};

// A row per window: its pixels row by row, a pixel's channels together; 0 beyond the edges. `T` is one channel or four, `channels` how
// many of these a pixel has.
template <typename T> __device__ static void gather_of(T *matrix, const T *images, Windows w, u32 channels, u32 count) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 rest = i / channels, channel = i - rest * channels;
    u32 x = rest % w.side;
    rest /= w.side;
    u32 y = rest % w.side;
    rest /= w.side;
    u32 out_x = rest % w.out_width;
    rest /= w.out_width;
    u32 item = rest / w.out_height, out_y = rest - item * w.out_height;
    int row = (int)(out_y * w.stride + y) - (int)w.padding, column = (int)(out_x * w.stride + x) - (int)w.padding;
    bool inside = row >= 0 && row < (int)w.height && column >= 0 && column < (int)w.width;
    matrix[i] = inside ? images[((item * w.height + row) * w.width + column) * channels + channel] : T();
}

extern "C" __global__ void gather(float *matrix, const float *images, Windows w, u32 count) {
    gather_of(matrix, images, w, w.channels, count);
}

extern "C" __global__ void gather_fours(float4 *matrix, const float4 *images, Windows w, u32 count) {
    gather_of(matrix, images, w, w.channels / 4, count);
}

__device__ static inline void plus(float &sum, float value) {
    sum += value;
}

__device__ static inline void plus(float4 &sum, float4 value) {
    sum.x += value.x;
    sum.y += value.y;
    sum.z += value.z;
    sum.w += value.w;
}

// Per value of an image the sum of where it is in windows.
template <typename T> __device__ static void scatter_of(T *images, const T *matrix, Windows w, u32 channels, u32 count) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 rest = i / channels, channel = i - rest * channels;
    u32 column = rest % w.width;
    rest /= w.width;
    u32 item = rest / w.height, row = rest - item * w.height;
    T sum = T();
    for (u32 y = 0; y < w.side; y++) {
        int top = (int)(row + w.padding) - (int)y;
        int out_y = top / (int)w.stride;
        if (top < 0 || out_y * (int)w.stride != top || out_y >= (int)w.out_height) continue;
        for (u32 x = 0; x < w.side; x++) {
            int left = (int)(column + w.padding) - (int)x;
            int out_x = left / (int)w.stride;
            if (left < 0 || out_x * (int)w.stride != left || out_x >= (int)w.out_width) continue;
            u32 window = (item * w.out_height + out_y) * w.out_width + out_x;
            plus(sum, matrix[((window * w.side + y) * w.side + x) * channels + channel]);
        }
    }
    images[i] = sum;
}

extern "C" __global__ void scatter(float *images, const float *matrix, Windows w, u32 count) {
    scatter_of(images, matrix, w, w.channels, count);
}

extern "C" __global__ void scatter_fours(float4 *images, const float4 *matrix, Windows w, u32 count) {
    scatter_of(images, matrix, w, w.channels / 4, count);
}

// --- norms: a block per item and group of channels; a row is an item of one pixel with one group ---

// `moments` holds mean and 1/sd of each item and group.
extern "C" __global__ void normalise(
    float *y, float *moments, const float *x, const float *gamma, const float *beta, u32 pixels, u32 channels, u32 groups,
    u32 has_relu
) {
    u32 width = channels / groups, group = blockIdx.x % groups, count = pixels * width;
    u64 start = (u64)(blockIdx.x / groups) * pixels * channels + group * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += x[start + (u64)(i / width) * channels + i % width];
    float mean = block_sum(sum) / count;
    sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        float d = x[start + (u64)(i / width) * channels + i % width] - mean;
        sum += d * d;
    }
    float inverse = rsqrtf(block_sum(sum) / count + EPSILON);
    if (threadIdx.x == 0) {
        moments[2 * (u64)blockIdx.x] = mean;
        moments[2 * (u64)blockIdx.x + 1] = inverse;
    }
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u32 channel = group * width + i % width;
        u64 at = start + (u64)(i / width) * channels + i % width;
        float value = (x[at] - mean) * inverse * gamma[channel] + beta[channel];
        y[at] = has_relu ? fmaxf(value, 0.0f) : value;
    }
}

// The gradient of what was normalised, by that of what a ReLU, if there is one, made of it.
__device__ static inline float before_relu(const float *dy, const float *y, u64 at, u32 has_relu) {
    return !has_relu || y[at] > 0.0f ? dy[at] : 0.0f;
}

// dx = (γ dy - mean(γ dy) - x̂ mean(γ dy x̂)) / sd, with means over the group.
extern "C" __global__ void normalise_back(
    float *dx, const float *dy, const float *y, const float *x, const float *moments, const float *gamma, u32 pixels, u32 channels,
    u32 groups, u32 has_relu
) {
    u32 width = channels / groups, group = blockIdx.x % groups, count = pixels * width;
    u64 start = (u64)(blockIdx.x / groups) * pixels * channels + group * width;
    float mean = moments[2 * (u64)blockIdx.x], inverse = moments[2 * (u64)blockIdx.x + 1];
    float shift = 0.0f, slope = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u64 at = start + (u64)(i / width) * channels + i % width;
        float d = before_relu(dy, y, at, has_relu) * gamma[group * width + i % width];
        shift += d;
        slope += d * (x[at] - mean) * inverse;
    }
    shift = block_sum(shift) / count;
    slope = block_sum(slope) / count;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u64 at = start + (u64)(i / width) * channels + i % width;
        float d = before_relu(dy, y, at, has_relu) * gamma[group * width + i % width];
        dx[at] = (d - shift - (x[at] - mean) * inverse * slope) * inverse;
    }
}

// Parts of dγ = Σ dy x̂ and dβ = Σ dy, as `column_parts` makes them; rows are the pixels of all items.
extern "C" __global__ void norm_parts(
    float *gammas, float *betas, const float *dy, const float *y, const float *x, const float *moments, u32 rows, u32 columns,
    u32 chunk, u32 pixels, u32 groups, u32 has_relu
) {
    __shared__ float gamma_sums[8][33], beta_sums[8][33];
    u32 column = blockIdx.x * 32 + threadIdx.x, width = columns / groups;
    u32 first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float gamma = 0.0f, beta = 0.0f;
    if (column < columns)
        for (u32 row = first + threadIdx.y; row < last; row += 8) {
            u64 at = (u64)row * columns + column, of = 2 * ((u64)(row / pixels) * groups + column / width);
            float d = before_relu(dy, y, at, has_relu);
            beta += d;
            gamma += d * (x[at] - moments[of]) * moments[of + 1];
        }
    gamma_sums[threadIdx.y][threadIdx.x] = gamma;
    beta_sums[threadIdx.y][threadIdx.x] = beta;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (u32 lane = 1; lane < 8; lane++) {
            gamma += gamma_sums[lane][threadIdx.x];
            beta += beta_sums[lane][threadIdx.x];
        }
        gammas[(u64)blockIdx.y * columns + column] = gamma;
        betas[(u64)blockIdx.y * columns + column] = beta;
    }
}

// --- pooling ---

extern "C" __global__ void pool(float *y, const float *x, u32 pixels, u32 channels, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    const float *image = x + i / channels * pixels * channels + i % channels;
    float sum = 0.0f;
    for (u32 pixel = 0; pixel < pixels; pixel++) sum += image[(u64)pixel * channels];
    y[i] = sum / pixels;
}

extern "C" __global__ void pool_back(float *dx, const float *dy, u32 pixels, u32 channels, u64 count) {
    u64 i = thread_id();
    if (i < count) dx[i] = dy[i / ((u64)pixels * channels) * channels + i % channels] / pixels;
}

// --- attention: queries, keys, values lie as token, part, head, width ---

// To part, sequence, head, token, width: each head's matrices in one piece.
extern "C" __global__ void by_head(float *apart, const float *qkv, u32 tokens, u32 heads, u32 width, u32 parts, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    u32 w = i % width;
    u64 rest = i / width;
    u32 token = rest % tokens, head = rest / tokens % heads;
    rest /= (u64)tokens * heads;
    u64 sequences = count / ((u64)tokens * heads * width * parts), sequence = rest % sequences, part = rest / sequences;
    apart[i] = qkv[(((sequence * tokens + token) * parts + part) * heads + head) * width + w];
}

extern "C" __global__ void by_head_back(float *qkv, const float *apart, u32 tokens, u32 heads, u32 width, u32 parts, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    u32 w = i % width;
    u64 rest = i / width;
    u32 head = rest % heads, part = rest / heads % parts;
    rest /= heads * parts;
    u32 token = rest % tokens;
    u64 sequence = rest / tokens, sequences = count / ((u64)tokens * heads * width * parts);
    qkv[i] = apart[((((u64)part * sequences + sequence) * heads + head) * tokens + token) * width + w];
}

// Rows to their softmax; a block per row.
extern "C" __global__ void softmax(float *rows, u32 columns) {
    float *row = rows + (u64)blockIdx.x * columns;
    float most = -3.4e38f, sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) most = fmaxf(most, row[i]);
    most = block_max(most);
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
        row[i] = expf(row[i] - most);
        sum += row[i];
    }
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) row[i] /= sum;
}

// The gradient of a softmax, in its place, to that of what it was of: w (dw - Σ w dw).
extern "C" __global__ void softmax_back(float *slopes, const float *weights, u32 columns) {
    float *slope = slopes + (u64)blockIdx.x * columns;
    const float *weight = weights + (u64)blockIdx.x * columns;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) sum += slope[i] * weight[i];
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) slope[i] = weight[i] * (slope[i] - sum);
}

// --- graphs: the edges of list i are those from ends[i] to ends[i + 1]; `others` are their other nodes, and `place` says where what is
// known of an edge is: in the order of the nodes that edges lead to. Heads of a node lie one after the other ---

// Which values of a node's row.
struct Part {
    u32 stride, offset;
};

// Adds to each node the sum of its others', each times the edge's share for its head.
extern "C" __global__ void neighbour_sums(
    float *y, Part of_y, const float *x, Part of_x, const float *shares, const u32 *ends, const u32 *others, const u32 *place,
    u32 heads, u32 width, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    u32 dims = heads * width, dim = i % dims, head = dim / width;
    u64 node = i / dims;
    float sum = 0.0f;
    for (u32 edge = ends[node]; edge < ends[node + 1]; edge++)
        sum += shares[(u64)place[edge] * heads + head] * x[(u64)others[edge] * of_x.stride + of_x.offset + dim];
    y[node * of_y.stride + of_y.offset + dim] += sum;
}

// Per edge and head the product of what `a` has of the node that it leads to with what `b` has of the other, times `by`.
extern "C" __global__ void edge_dots(
    float *dots, const float *a, Part of_a, const float *b, Part of_b, const u32 *targets, const u32 *others, u32 heads, u32 width,
    float by, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    u64 edge = i / heads;
    u32 first = i % heads * width;
    a += (u64)targets[edge] * of_a.stride + of_a.offset + first;
    b += (u64)others[edge] * of_b.stride + of_b.offset + first;
    float sum = 0.0f;
    for (u32 w = 0; w < width; w++) sum += a[w] * b[w];
    dots[i] = sum * by;
}

// Per edge and head the sum of what both of its nodes have.
extern "C" __global__ void edge_scores(
    float *scores, const float *of_source, const float *of_target, const u32 *targets, const u32 *others, u32 heads, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    u64 edge = i / heads;
    u32 head = i % heads;
    scores[i] = of_source[(u64)others[edge] * heads + head] + of_target[(u64)targets[edge] * heads + head];
}

extern "C" __global__ void leaky_relu(float *y, const float *x, u64 count) {
    u64 i = thread_id();
    if (i < count) y[i] = x[i] > 0.0f ? x[i] : 0.2f * x[i];
}

extern "C" __global__ void leaky_relu_back(float *slopes, const float *x, u64 count) {
    u64 i = thread_id();
    if (i < count && !(x[i] > 0.0f)) slopes[i] *= 0.2f;
}

// A node's edges to their softmax; a thread per node and head.
extern "C" __global__ void edge_softmax(float *scores, const u32 *ends, u32 heads, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    u64 node = i / heads, first = (u64)ends[node] * heads + i % heads, last = (u64)ends[node + 1] * heads;
    float most = -3.4e38f, sum = 0.0f;
    for (u64 at = first; at < last; at += heads) most = fmaxf(most, scores[at]);
    for (u64 at = first; at < last; at += heads) {
        scores[at] = expf(scores[at] - most);
        sum += scores[at];
    }
    for (u64 at = first; at < last; at += heads) scores[at] /= sum;
}

// The gradient of such a softmax, in its place, to that of what it was of, times `by`.
extern "C" __global__ void edge_softmax_back(float *slopes, const float *shares, const u32 *ends, u32 heads, float by, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    u64 node = i / heads, first = (u64)ends[node] * heads + i % heads, last = (u64)ends[node + 1] * heads;
    float sum = 0.0f;
    for (u64 at = first; at < last; at += heads) sum += slopes[at] * shares[at];
    for (u64 at = first; at < last; at += heads) slopes[at] = shares[at] * (slopes[at] - sum) * by;
}

// Per node and head the sum over its edges.
extern "C" __global__ void edge_sums(
    float *sums, const float *values, const u32 *ends, const u32 *place, u32 heads, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    u64 node = i / heads;
    float sum = 0.0f;
    for (u32 edge = ends[node]; edge < ends[node + 1]; edge++) sum += values[(u64)place[edge] * heads + i % heads];
    sums[i] = sum;
}

// Per node and head the product with the head's vector.
extern "C" __global__ void head_dots(float *dots, const float *x, const float *vectors, u32 heads, u32 width, u64 count) {
    u64 i = thread_id();
    if (i >= count) return;
    const float *vector = vectors + i % heads * width;
    float sum = 0.0f;
    for (u32 w = 0; w < width; w++) sum += x[i * width + w] * vector[w];
    dots[i] = sum;
}

// Each head's values times the head's factor.
extern "C" __global__ void scale_heads(float *y, const float *x, const float *factors, u32 width, u64 count) {
    u64 i = thread_id();
    if (i < count) y[i] = x[i] * factors[i / width];
}

// Adds to each node its heads' vectors, each times the head's factor.
extern "C" __global__ void add_vectors(float *y, const float *vectors, const float *factors, u32 heads, u32 width, u64 count) {
    u64 i = thread_id();
    if (i < count) y[i] += vectors[i % (heads * width)] * factors[i / width];
}

// --- steps of optimizers, over all parameters at once ---

// Sums of squares in pieces of `chunk` values.
extern "C" __global__ void square_parts(double *parts, const float *values, u64 count, u64 chunk) {
    __shared__ double sums[256];
    u64 first = blockIdx.x * chunk, last = min(first + chunk, count);
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += (double)values[i] * values[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = sums[0];
}

// `decays` is 1 where weight decay applies.
extern "C" __global__ void adamw(
    float *values, float *gradients, float *first, float *second, const float *decays, float rate, float root, float shrink, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    float gradient = gradients[i];
    float m = 0.9f * first[i] + (1.0f - 0.9f) * gradient;
    float v = 0.999f * second[i] + (1.0f - 0.999f) * gradient * gradient;
    first[i] = m;
    second[i] = v;
    values[i] = (decays[i] != 0.0f ? shrink : 1.0f) * values[i] - rate * m / (sqrtf(v) / root + 1e-8f);
    gradients[i] = 0.0f;
}

// What LARS multiplies a parameter's gradient by: a block per parameter, which begins at `starts[block]`.
extern "C" __global__ void trust(
    float *trusts, const float *values, const float *gradients, const float *decays, const u64 *starts, float decay, float eta
) {
    __shared__ double of_values[256], of_gradients[256];
    u64 first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    double values_sum = 0.0, gradients_sum = 0.0;
    for (u64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        float gradient = gradients[i] + decay * decays[i] * values[i];
        values_sum += (double)values[i] * values[i];
        gradients_sum += (double)gradient * gradient;
    }
    of_values[threadIdx.x] = values_sum;
    of_gradients[threadIdx.x] = gradients_sum;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            of_values[threadIdx.x] += of_values[threadIdx.x + half];
            of_gradients[threadIdx.x] += of_gradients[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double w = sqrt(of_values[0]), g = sqrt(of_gradients[0]);
        bool is_plain = decays[first] == 0.0f || w < 1e-12 || g < 1e-12;
        trusts[blockIdx.x] = is_plain ? 1.0f : (float)(eta * w / g);
    }
}

// `trusts` per parameter, and `of` which parameter a value is of.
extern "C" __global__ void sgd(
    float *values, float *gradients, float *velocity, const float *decays, const float *trusts, const u32 *of, float rate,
    float momentum, float decay, u64 count
) {
    u64 i = thread_id();
    if (i >= count) return;
    float gradient = gradients[i] + decay * decays[i] * values[i];
    float v = momentum * velocity[i] + trusts[of[i]] * gradient;
    velocity[i] = v;
    values[i] -= rate * v;
    gradients[i] = 0.0f;
}

extern "C" __global__ void follow(float *values, const float *other, float kept, u64 count) {
    u64 i = thread_id();
    if (i < count) values[i] = kept * values[i] + (1.0f - kept) * other[i];
}
