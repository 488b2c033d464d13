/* portable.h - for headers whose functions also run in CUDA kernels. */
#ifndef KS_PORTABLE_H
#define KS_PORTABLE_H

#ifdef __CUDACC__
#define KS_HOST_DEVICE __host__ __device__
#else
#define KS_HOST_DEVICE
#endif

#endif
