# SPDX-License-Identifier: Apache-2.0
# For cmake -DCMAKE_TOOLCHAIN_FILE=arm-none-eabi.cmake: GCC for Cortex-M, nothing to link against.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
