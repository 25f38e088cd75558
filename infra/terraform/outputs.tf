output "store" {
  description = "URL of the store, for WORLD2ACT_STORE and DVC's default remote"
  value       = trimsuffix("s3://${aws_s3_bucket.store.id}/${module.policies.prefix}", "/")
}

output "role_arns" {
  description = "Role -> ARN, for profiles in ~/.aws/config and for the annotation of the service account"
  value       = { for role, made in aws_iam_role.role : role => made.arn }
}
