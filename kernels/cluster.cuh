#pragma once
// Clusters: CTAs that run at the same time and may read each other's shared memory (compute capability 9.0 on).
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define CLUSTERS 1
#else
#define CLUSTERS 0
#endif

// On a kernel: how many consecutive CTAs are a cluster.
#define CLUSTER_OF(n) __cluster_dims__(n, 1, 1)

#if CLUSTERS
#include <cooperative_groups.h>

// This CTA's place in its cluster.
__device__ __forceinline__ unsigned cluster_rank() { return cooperative_groups::this_cluster().block_rank(); }

// A barrier of all threads of the cluster, after which each sees what the others wrote to shared memory.
__device__ __forceinline__ void cluster_sync() { cooperative_groups::this_cluster().sync(); }

// `p` in shared memory, but in that of CTA `rank`.
template <class T> __device__ __forceinline__ T *cluster_shared(T *p, unsigned rank) {
    return cooperative_groups::this_cluster().map_shared_rank(p, rank);
}
#endif
