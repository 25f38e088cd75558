variable "region" {
  description = "AWS region of the bucket"
  type        = string
}

variable "bucket" {
  description = "Name of the bucket to create; with `prefix` it is the store: s3://bucket/prefix"
  type        = string
}

variable "prefix" {
  description = "Folder of the store in the bucket, without leading or trailing slash; empty for the whole bucket"
  type        = string
  default     = ""
}

variable "principals" {
  description = "Who may assume each role: ARNs of IAM users, roles or account roots. A role without any is not created."
  type = object({
    publisher = optional(list(string), [])
    worker    = optional(list(string), [])
    robot     = optional(list(string), [])
    collector = optional(list(string), [])
  })

  validation {
    condition = alltrue([
      for arn in flatten(values(var.principals)) :
      can(regex("^arn:aws:iam::[0-9]{12}:(root|user/.+|role/.+)$", arn))
    ])
    error_message = "Each principal is the whole ARN of an IAM user, role or account root; a wildcard is none."
  }

  validation {
    condition     = length(flatten(values(var.principals))) > 0 || var.kubernetes != null
    error_message = "Name who may assume at least one role."
  }
}

variable "kubernetes" {
  description = "The EKS cluster whose service account may assume the worker's role (see infra/kubernetes); null for none"
  type = object({
    oidc_provider_arn = string
    namespace         = optional(string, "world2act")
    service_account   = optional(string, "world2act-stage")
  })
  default = null

  validation {
    condition = var.kubernetes == null || can(
      regex("^arn:aws:iam::[0-9]{12}:oidc-provider/.+$", var.kubernetes.oidc_provider_arn)
    )
    error_message = "oidc_provider_arn is the ARN of the cluster's IAM OIDC provider."
  }
}

variable "kms_key_arn" {
  description = "KMS key for encryption, which the roles may then use; null for S3's own keys (SSE-S3)"
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key, not of an alias."
  }
}

variable "log_bucket" {
  description = "An existing bucket that receives this bucket's access logs; null for none"
  type        = string
  default     = null
}

variable "noncurrent_days" {
  description = "Days for which a deleted or overwritten object can still be restored"
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 7 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "At least 7 whole days: the garbage collector's mistakes are found by then, or never."
  }
}

variable "handover_days" {
  description = "Days after which results that stages on work pools handed over to their flow are deleted"
  type        = number
  default     = 14

  validation {
    condition     = var.handover_days >= 1 && floor(var.handover_days) == var.handover_days
    error_message = "At least 1 whole day."
  }
}

variable "tags" {
  description = "Tags of everything created here"
  type        = map(string)
  default     = { project = "world2act" }
}
